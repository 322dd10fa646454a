"""Provenance of results: the versions of code and packages."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import mars_assets

PACKAGES = (
    "torch",
    "timm",
    "lightning-fabric",
    "onedl-mmsegmentation",
    "numpy",
    "rasterio",
    "scikit-learn",
    "pycocotools",
    "dagster",
)


@cache  # reading a version opens and parses a file
def software() -> dict[str, str]:
    """Collect the versions of packages that affect results.

    This package and Python are among them.
    """
    found = {"mars_assets": mars_assets.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
