"""Everything that this project adds to MMSegmentation's registries. Import it (a config's ``custom_imports`` does) and any mmseg
config can name these parts beside mmseg's own heads and losses.
"""

from mars_assets.segmentation import loop, losses, networks, pipeline

__all__ = ["loop", "losses", "networks", "pipeline"]
