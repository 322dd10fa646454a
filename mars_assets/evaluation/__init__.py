"""Metrics with their uncertainty: how good, and how sure."""
