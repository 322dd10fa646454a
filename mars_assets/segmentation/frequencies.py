"""Size-frequency statistics of a lake's catalogue, with trials of its model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from mars_assets.code_versions import CATALOGUE, FREQUENCIES
from mars_assets.craters.ages import is_installed
from mars_assets.craters.catalogue_files import read_catalogue
from mars_assets.craters.size_frequency import Dating, SizeFrequencies, Trials, size_frequency_of
from mars_assets.errors import MarsError, MissingInputError
from mars_assets.lake import Lake
from mars_assets.models.report import read_report, write_report
from mars_assets.models.task import Report
from mars_assets.progress import SILENT, Progress
from mars_assets.segmentation.calibration import label_trials
from mars_assets.segmentation.completeness import inject_with
from mars_assets.segmentation.maps import Finder, MapRequest, finder_of, is_mapped, provenance_of
from mars_assets.storage.files import write_csv
from mars_assets.storage.hashing import fingerprint
from mars_assets.storage.schema import write_checked

if TYPE_CHECKING:
    from mars_assets.models.versions import ModelVersion
    from mars_assets.training.compute import Compute

TABLE = "size_frequency"
_FEWEST = 20
"""Injected craters that were found, from which their mean size error is known."""

Product = Callable[[str], tuple[Path, Path | None]]
"""Locates an observation's image and label. Raises MissingInputError."""


class FrequencyRequest(NamedTuple):
    """What a user chooses.

    Args:
        product: locates the images into which craters are drawn; None to draw none.
        smallest_km, largest_km: diameters that the age is from; None for the defaults, see
            :class:`mars_assets.craters.size_frequency.Dating`.
        python: interpreter that has craterstats; None for this process's.
    """

    product: Product | None
    smallest_km: float | None = None
    largest_km: float | None = None
    python: Path | None = None


@dataclass(frozen=True)
class Frequencies:
    """Size-frequency statistics on disk.

    Args:
        report: what is shown.
        key: fingerprint of everything that they depend on.
        computed: whether they were computed now.
    """

    report: Report
    key: str
    computed: bool


class _NoTrialsError(MarsError):
    """Craters that cannot be drawn into a scene."""


@dataclass(frozen=True)
class _Injector:
    """What draws craters into the scenes of a lake."""

    lake: Lake
    product: Product
    finder: Finder
    compute: Compute
    progress: Progress

    def injected(self, scene: str) -> pd.DataFrame:
        """Draw craters into a scene.

        Raises:
            _NoTrialsError: its image is missing, or its map is not the one that the model would make: what the model
                finds says nothing of that, nor may it be replaced here.
        """
        folder = self.lake.crater_map(scene)
        try:
            image, label = self.product(scene)
        except MissingInputError as error:
            raise _NoTrialsError(str(error)) from error
        smallest = provenance_of(folder).get("smallest_px")
        if smallest is None:
            raise _NoTrialsError(f"its map is not finished: materialize 'crater_maps' for {scene}")
        request = MapRequest(image, smallest, label, versions=True)
        if not is_mapped(self.finder, request, folder):
            raise _NoTrialsError(
                "its map was made by another model or calibration, on another device, or in another precision than now "
                f"({self.compute}): materialize 'crater_maps' for {scene}"
            )
        return inject_with(self.finder, request, folder, self.compute.seed, self.progress).trials


def size_frequencies(
    lake: Lake, model: ModelVersion, request: FrequencyRequest, compute: Compute, progress: Progress = SILENT
) -> Frequencies:
    """Compute the size-frequency statistics of a lake's catalogue, and write them.

    What exists for the same catalogue, trials and request is read.

    Args:
        lake: the lake.
        model: the segmenter in use, whose trials they are.
        request: what the user chooses.
        compute: device and precision.
        progress: reports the work.

    Raises:
        MissingInputError: there is no catalogue.
        MarsError: the range for the age is none, or as :func:`mars_assets.craters.size_frequency.size_frequency_of`.
    """
    catalogue = read_catalogue(lake)
    recall, precision = label_trials(model.folder) or (None, None)
    notes = []
    if recall is None:
        notes.append(
            f"What {model.name} {model.version} finds of labelled craters is not known: materialize 'seg_evaluation'."
        )
    tables = []
    if request.product is not None:
        finder = finder_of(model, compute, progress)
        # The network is opened once, for the first scene that needs it.
        injector = _Injector(lake, request.product, replace(finder, open=cache(finder.open)), compute, progress)
        for scene in catalogue.scenes:
            try:
                tables.append(injector.injected(scene.scene))
            except _NoTrialsError as reason:
                notes.append(f"No craters were drawn into {scene.scene}: {reason}.")
    injected = pd.concat(tables, ignore_index=True) if tables else None
    trials = Trials(None if injected is None else _successes(injected), recall, precision)
    dating = _dating(lake, request, _size_error(injected))
    key = fingerprint(
        [
            [FREQUENCIES, CATALOGUE],
            [[scene.scene, scene.key] for scene in catalogue.scenes],
            *(None if table is None else table.to_dict("list") for table in trials),
            [notes, dating.within_km, dating.size_error, str(dating.python), is_installed()],
        ]
    )
    report = read_report(lake, TABLE, key)
    if report is not None and lake.metrics(TABLE).exists():
        return Frequencies(report, key, computed=False)
    found = size_frequency_of(catalogue, trials, dating)
    return Frequencies(_written(lake, model, found, notes, key), key, computed=True)


def _successes(injected: pd.DataFrame) -> pd.DataFrame:
    return injected[["diameter_px", "found"]].rename(columns={"found": "success"})


def _size_error(injected: pd.DataFrame | None) -> float | None:
    """Compute how much too large craters are found in the mean, such as 0.03.

    None if too few were found.
    """
    if injected is None or injected["found"].sum() < _FEWEST:
        return None
    found = injected[injected["found"]]
    return round(math.expm1(float(np.log(found["found_diameter_px"] / found["diameter_px"]).mean())), 3)


def _dating(lake: Lake, request: FrequencyRequest, size_error: float | None) -> Dating:
    """Complete what a user chose.

    Raises:
        MarsError: it is no range, or half of one.
    """
    smallest, largest = request.smallest_km, request.largest_km
    if (smallest is None) != (largest is None):
        raise MarsError("smallest_km and largest_km belong together: give both, or neither")
    within = None
    if smallest is not None and largest is not None:
        if not 0 < smallest < largest:
            raise MarsError(f"smallest_km {smallest:g} and largest_km {largest:g} are no range: give the smaller first")
        within = (smallest, largest)
    return Dating(within, size_error, lake.crater_catalogue(".scc"), request.python)


def _written(lake: Lake, model: ModelVersion, found: SizeFrequencies, notes: list[str], key: str) -> Report:
    """Write table and report."""
    from mars_assets.craters.schema import SizeFrequency

    write_checked(lake.metrics(TABLE), found.table, SizeFrequency, {"key": key, "model": model.version})
    write_csv(lake.metrics(TABLE, ".csv"), found.table)
    figures = {"size_frequency": found.figure}
    if found.rates_figure is not None:
        figures["completeness"] = found.rates_figure
    facts = {"in words": "\n".join(f"- {sentence}" for sentence in [*found.sentences, *notes])}
    tables = {"rates by size": found.rates, "complete from": found.complete}
    return write_report(
        lake, TABLE, key, Report(figures, {title: rows for title, rows in tables.items() if len(rows)}, facts)
    )
