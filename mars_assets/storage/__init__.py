"""Atomic file writes, published folders, caches and hashes."""
