"""Metrics with their uncertainty."""

COMPUTATION = "evaluation 3"
"""Names the way of evaluating.

Raise the number when the same model on the same images is evaluated or displayed differently.
"""
