"""Masked reconstruction of Mars by a pretrained model.

It yields the paper's table and figures.
"""
