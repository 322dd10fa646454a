"""Craters in masks and in whole scenes.

Geometry, sizes, catalogues and their files, and size-frequency distributions.
"""
