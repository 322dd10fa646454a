"""Files and hashes: written whole or not at all, and cached by what they were computed from."""
