"""Everything that this project adds to MMSegmentation's registries.

A config's ``custom_imports`` names this module; any mmseg config can then name these parts next to mmseg's own.
"""

from mars_assets.segmentation import dataset, losses, metrics, networks, optim, transforms

__all__ = ["dataset", "losses", "metrics", "networks", "optim", "transforms"]
