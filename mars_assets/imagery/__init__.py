"""Imagery: HiRISE's products and crops, and rasters of any sensor."""
