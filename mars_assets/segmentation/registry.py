"""This project's additions to MMSegmentation's registries.

A config whose ``custom_imports`` lists this module can name these parts next to mmseg's own.
"""

from mars_assets.segmentation import dataset, losses, metrics, networks, optim, transforms

__all__ = ["dataset", "losses", "metrics", "networks", "optim", "transforms"]
