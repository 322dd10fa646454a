"""Labels exported from Roboflow: reading, rasterising and merging into one table."""
