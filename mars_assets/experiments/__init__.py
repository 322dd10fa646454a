"""Sweeps: the comparison of many recipes on the same data in one table."""
