"""Crater or no crater on a tile: recipe, model, training, prediction, evaluation and figures. Knows no Dagster."""
