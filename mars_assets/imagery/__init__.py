"""HiRISE imagery: products, downloads and crops."""
