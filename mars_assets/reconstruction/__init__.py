"""Masked reconstruction of Mars by a pretrained model: the paper's table and figures."""
