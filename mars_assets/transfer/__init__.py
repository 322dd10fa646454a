"""The transfer study: what an encoder is worth on the labelled images."""
