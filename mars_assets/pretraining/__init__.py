"""Masked pretraining continued on unlabelled Mars.

This is Prithvi's own task, on this lake's crops.
"""
