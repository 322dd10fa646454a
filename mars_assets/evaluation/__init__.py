"""Metrics with their uncertainty: how good, and how sure."""

COMPUTATION = "evaluation 3"
"""Names the way of judging: raise the number when the same model on the same images is judged or shown in another way."""
