"""Classification of images as crater or no crater."""
