"""Chips: labelled images in reflectance units, imputed to six bands."""
