"""Prithvi: the masked autoencoder, its published variants and their weights."""
