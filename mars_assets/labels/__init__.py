"""Labels as Roboflow exports them: reading the zips, rasterising the outlines, one table of labelled crops."""
