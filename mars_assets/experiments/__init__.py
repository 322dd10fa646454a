"""Sweeps: many recipes on the same data, as one table."""
