"""Integrity checks of cut crops, to run before labelling and training."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.imagery.crops import crop_folders, read_crops
from mars_assets.images import read_stored
from mars_assets.lake import Lake
from mars_assets.storage.published import version_in_use

_FOUND_WHOLE = ".found-whole"
"""Name of a marker file: all crops of the folder were decoded without a problem. Cutting them again removes it."""
_SAMPLE = 16


def crop_problems(lake: Lake, observations: Sequence[str] | None = None) -> tuple[list[str], int]:
    """Check the crops of a lake.

    Every file must exist, and every crop must decode; of a set that once passed, only a sample is decoded.

    Args:
        lake: contains the crops.
        observations: the observations whose crops to check; all by default.

    Returns:
        A sentence for each problem, and the number of crops.
    """
    chosen = crop_folders(lake) if observations is None else observations
    problems, count = [], 0
    for observation in chosen:
        try:
            found, crops = _problems_of(observation, version_in_use(lake.crops(observation)))
        except (MarsError, OSError) as error:
            found, crops = [f"the crops of {observation} cannot be checked: {error}"], 0
        problems += found
        count += crops
    return problems, count


def _problems_of(observation: str, folder: Path) -> tuple[list[str], int]:
    crops = read_crops(folder).query("kept").to_dict("records")
    marker = folder / _FOUND_WHOLE
    step = max(1, len(crops) // _SAMPLE) if marker.exists() else 1
    present = {path.name for path in folder.iterdir()}
    problems = []
    for i, crop in enumerate(crops):
        for name, check in ((crop["file"], _check_picture), (crop["dn_file"], _check_dn)):
            if not isinstance(name, str):  # uncalibrated products have no DN
                continue
            if name not in present:
                problems.append(f"{name} is missing: materialize 'crops' of {observation} again")
            elif i % step == 0 and (problem := check(folder / name, crop)):
                problems.append(f"{name} {problem}: delete it, and materialize 'crops' of {observation} again")
    with contextlib.suppress(OSError):  # a read-only lake gets no marker
        if problems:
            marker.unlink(missing_ok=True)
        elif not marker.exists():
            marker.touch()
    return problems, len(crops)


def _check_picture(path: Path, crop: Mapping[Any, Any]) -> str:
    """Describe the problem with a crop's PNG; empty if there is none."""
    try:
        shape = read_stored(path, "").shape
    except DamagedFileError as error:
        return f"does not decode ({error.__cause__})"
    if shape != (crop["height"], crop["width"], 3):
        return f"has shape {shape}, not ({crop['height']}, {crop['width']}, 3)"
    return ""


def _check_dn(path: Path, crop: Mapping[Any, Any]) -> str:
    """Describe the problem with the GeoTIFF of a crop's DN; empty if there is none."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as dataset:
            dataset.read()
            if dataset.shape != (crop["height"], crop["width"]):
                return f"has shape {dataset.shape}, not ({crop['height']}, {crop['width']})"
    except (RasterioError, OSError) as error:
        return f"does not decode ({error})"
    return ""
