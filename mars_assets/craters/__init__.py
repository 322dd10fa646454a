"""Craters from masks.

Geometry, sizes, catalogues and size-frequency distributions.
"""
