"""The embedded sample: synthetic Mars in the real file formats.

With it, everything runs without access to the archive.
"""
