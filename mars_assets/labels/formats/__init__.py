"""The formats that Roboflow exports labels in, a module each: told by content, read entry by entry from the zip."""
