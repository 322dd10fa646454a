"""The formats in which Roboflow exports labels, one module each.

They are recognised by content and read entry by entry from the zip.
"""
