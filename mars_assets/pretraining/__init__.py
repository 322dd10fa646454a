"""Masked pretraining continued on unlabelled Mars: Prithvi's own task, on this lake's crops."""
