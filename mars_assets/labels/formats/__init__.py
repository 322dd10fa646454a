"""Readers of Roboflow's export formats, one module each, recognised by content."""
