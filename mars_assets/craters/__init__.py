"""Craters from masks: geometry, sizes, catalogues and size-frequency distributions."""
