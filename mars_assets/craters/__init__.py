"""Craters as geometry: from masks to discs, their sizes, catalogues and size-frequency distributions."""
