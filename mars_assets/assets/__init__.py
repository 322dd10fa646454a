"""Dagster assets, one module per group, which only call domain code."""
