"""HiRISE imagery: products, downloads, and the crops cut from them."""
