"""Crater segmentation with MMSegmentation: recipe, training, prediction, evaluation."""
