"""Prithvi: the masked autoencoder, its published variants and their weights."""

PRITHVI = "prithvi"
"""The architecture's name in recipes, next to those that it is compared with."""
