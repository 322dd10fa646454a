"""Masked reconstruction of Mars by an untouched model: the paper's table and figures."""
