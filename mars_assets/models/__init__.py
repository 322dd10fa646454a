"""Trained models in the lake.

Their versions, what they have seen, what they start from, and which one is in use.
"""
