"""The embedded sample: synthetic Mars in the real formats.

It is for people without access to the archive.
"""
