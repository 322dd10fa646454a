"""The embedded sample: synthetic Mars, written in the real formats, for people without the archive at hand."""
