"""Trained models in the lake: their versions, what they have seen, what they start from, and which one is in use."""
