"""Prithvi: the masked autoencoder, its published variants and their weights."""

PRITHVI = "prithvi"
"""Name of the architecture in recipes, next to those of the baselines."""
