"""What is an Earth-trained geospatial foundation model worth on Mars? A Dagster lineage that answers it."""

__version__ = "0.1.0"
