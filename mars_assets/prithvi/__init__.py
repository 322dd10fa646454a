"""Prithvi: the masked autoencoder, its published variants and their weights."""

PRITHVI = "prithvi"
"""The architecture as recipes name it, beside those that it is compared with."""
