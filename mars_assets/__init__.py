"""A lineage from HiRISE images to crater catalogues.

It answers what an Earth-trained geospatial foundation model is worth on Mars.

Importing the package sets, once for the process, which warnings are not shown: images and chips are read by threads,
for which ``warnings.catch_warnings`` is not made. What else changes state of the process does so where it is used, and
says so there: ``executor`` replaces a method of Dagster's, ``segmentation.hooks`` adds a file backend to mmengine's,
``segmentation.mmseg_setup.mmseg_ready`` hides what mmseg prints, and ``imagery.scene.load_glymur`` sets
``XDG_CONFIG_HOME`` while it imports glymur.
"""

import warnings

__version__ = "0.1.0"

_NOT_SHOWN = (
    # rasterio: crops of products that are not map projected have no georeference, and need none.
    "Dataset has no geotransform",
    "The given matrix is equal to Affine.identity",
    # Pillow: browse products are larger than it expects; beyond twice its limit it still refuses.
    "Image size .* could be decompression bomb",
    # Dagster 1.13: backfill policies, observable sources and owners. Tests hold what they do here. Remove when stable.
    ".* is currently in beta",
)
for _message in _NOT_SHOWN:
    warnings.filterwarnings("ignore", _message)
