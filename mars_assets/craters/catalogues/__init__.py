"""Reading of crater catalogues that somebody else made."""
