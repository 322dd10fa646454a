"""Checks of a machine, the lake's file system and Dagster's instance."""
