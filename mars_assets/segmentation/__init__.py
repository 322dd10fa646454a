"""Crater segmentation with MMSegmentation."""
