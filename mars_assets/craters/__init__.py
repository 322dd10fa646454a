"""Craters as geometry: discs from masks, sizes, catalogues, size-frequency distributions."""
