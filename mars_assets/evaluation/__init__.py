"""Statistics and history of metrics."""
