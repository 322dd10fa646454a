"""Checks of cut crops, made before anything is labelled or trained on them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import read_crops
from mars_assets.images import read_stored
from mars_assets.lake import CROPS, Lake

_FOUND_WHOLE = ".found-whole"
"""Marks crops that were all decoded without a problem; removed when they are cut again."""
_SAMPLE = 16


def crop_problems(lake: Lake, observations: Sequence[str] | None = None) -> tuple[list[str], int]:
    """Find what is wrong with the crops of a lake.

    Every file must exist. Every crop is decoded as well, but of a set that was once found whole only a sample.

    Args:
        lake: where the crops are.
        observations: whose crops to check; all if not given.

    Returns:
        The problems as sentences, and the number of crops.
    """
    if observations is None:
        folders = sorted(path.parent for path in lake.all_crops.glob(f"*/{CROPS}"))
    else:
        folders = [lake.crops(observation) for observation in observations]
    problems, count = [], 0
    for folder in folders:
        try:
            found, crops = _problems_of(folder)
        except (MarsError, OSError) as error:
            found, crops = [f"the crops of {folder.name} cannot be looked at: {error}"], 0
        problems += found
        count += crops
    return problems, count


def _problems_of(folder: Path) -> tuple[list[str], int]:
    manifest = read_crops(folder)
    crops = manifest[manifest["kept"]].to_dict("records")
    marker = folder / _FOUND_WHOLE
    step = max(1, len(crops) // _SAMPLE) if marker.exists() else 1
    present = {path.name for path in folder.iterdir()}
    problems = []
    for i, crop in enumerate(crops):
        for name, look in ((crop["file"], _look_at_picture), (crop["dn_file"], _look_at_dn)):
            if not isinstance(name, str):  # uncalibrated products have no DN
                continue
            if name not in present:
                problems.append(f"{name} is missing: materialize 'crops' of {folder.name} again")
            elif i % step == 0 and (problem := look(folder / name, crop)):
                problems.append(f"{name} {problem}: delete it, and materialize 'crops' of {folder.name} again")
    with contextlib.suppress(OSError):  # in a lake that may only be read all are decoded every time
        if problems:
            marker.unlink(missing_ok=True)
        elif not marker.exists():
            marker.touch()
    return problems, len(crops)


def _look_at_picture(path: Path, crop: Mapping[Any, Any]) -> str:
    """Describe what is wrong with a crop's picture; empty if nothing is."""
    try:
        shape = read_stored(path, "").shape
    except DamagedFileError as error:
        return f"does not decode ({error.__cause__})"
    if shape != (crop["height"], crop["width"], 3):
        return f"has the shape {shape}, not RGB of {crop['height']} x {crop['width']} pixels"
    return ""


def _look_at_dn(path: Path, crop: Mapping[Any, Any]) -> str:
    """Describe what is wrong with the GeoTIFF of a crop's DN; empty if nothing is."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as dataset:
            dataset.read()
            if dataset.shape != (crop["height"], crop["width"]):
                return f"has {dataset.shape} pixels, not {crop['height']} x {crop['width']}"
    except (RasterioError, OSError) as error:
        return f"does not decode ({error})"
    return ""
