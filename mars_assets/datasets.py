"""What models read.

Labelled crops joined with their six-band chips, and crops without labels.

Labels and chips that do not belong together are refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from mars_assets.bands import EVALUATED, BandStatistics
from mars_assets.errors import MarsError, ProvenanceError
from mars_assets.imagery.crops import kept_crops
from mars_assets.labels.table import current_label_version, mask_path, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.tensors.stages import read_manifest

STAGE = f"imputed_{EVALUATED}"
"""The tensors that models are trained on."""

_COLUMNS = ["image_id", "split", "observation", "chip", "chip_sha", "labels_sha"]


@dataclass(frozen=True)
class Dataset:
    """The labelled images of one task.

    Args:
        images: one row for each image: image_id, split, observation (the group that stays in one split), chip (path of
            the six-band GeoTIFF), chip_sha, labels_sha, and ``label`` (1 crater, 0 none) or ``mask`` (path of a PNG);
            ``instances``, the path of the numbered craters, None for a classified image without outlines.
        provenance: label version, tensor stage and its settings.
    """

    images: pd.DataFrame
    provenance: dict[str, Any]


def classification_dataset(lake: Lake, statistics: BandStatistics | None = None) -> Dataset:
    """Join all classified images with their chips.

    Args:
        lake: where they lie.
        statistics: of the weights that will read the chips; checked if given.

    Raises:
        MissingInputError: ``labelled_crops`` or the tensors have not been materialized.
        ProvenanceError: they contradict each other or the weights.
        MarsError: no image has a class.
    """
    lacking = "a class: put a folder-classification export (SPLIT/Crater, SPLIT/NoCrater)"
    images, provenance = _joined(lake, statistics, "label", lacking)
    images = images.assign(label=(images["label"] == "crater").astype(int))
    return Dataset(images[[*_COLUMNS, "label", "instances"]], provenance)


def segmentation_dataset(lake: Lake, annotation: str, statistics: BandStatistics | None = None) -> Dataset:
    """Join all outlined images with their chips and masks.

    The masks are those of one annotation; see :func:`classification_dataset`.
    """
    lacking = "crater outlines: put a COCO segmentation export"
    images, provenance = _joined(lake, statistics, "n_craters", lacking)
    images = images.assign(mask=[str(mask_path(lake, annotation, row)) for row in images.itertuples()])
    return Dataset(images[[*_COLUMNS, "mask", "instances"]], {**provenance, "annotation": annotation})


def _joined(
    lake: Lake, statistics: BandStatistics | None, wanted: str, lacking: str
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Join the images that have a value in the column ``wanted``.

    If there are none, ``error`` says so.
    """
    labels = read_labelled_crops(lake)
    version = current_label_version(lake)
    manifest, settings = read_manifest(lake, STAGE)
    mismatches = []
    if settings["label_version"] != version:
        mismatches.append(
            f"{STAGE} was computed for the labels {settings['label_version'][:12]} and labelled_crops holds "
            f"{version[:12]}: materialize reflectance and {STAGE} again"
        )
    if statistics is not None and settings["statistics"] != statistics.name:
        mismatches.append(
            f"{STAGE} was computed with the statistics {settings['statistics']!r} and the weights want "
            f"{statistics.name!r}: materialize reflectance with the configuration {{statistics: {statistics.name}}}, "
            f"then {STAGE} again"
        )
    if mismatches:
        raise ProvenanceError("; ".join(mismatches))
    images = labels[labels["image_id"].isin(manifest["image_id"])]
    if len(images) != len(labels):
        missing = sorted(set(labels["image_id"]) - set(manifest["image_id"]))
        raise ProvenanceError(f"{STAGE} lacks {len(missing)} labelled images, e.g. {missing[0]}: materialize it again")
    chips = manifest.set_index("image_id").loc[images["image_id"]]
    instances = [
        str(mask_path(lake, "instances", row)) if outlined else None
        for outlined, row in zip(images["n_craters"].notna(), images.itertuples(), strict=True)
    ]
    images = images.assign(
        observation=images["group"],
        chip=[str(lake.inside(file)) for file in chips["file"]],
        chip_sha=chips["chip_sha"].to_numpy(),
        instances=pd.Series(instances, images.index, object),
    )
    images = images[images[wanted].notna()]
    if images.empty:
        raise MarsError(
            f"no labelled image has {lacking} into {lake.inbox} and materialize labelled_crops, reflectance and "
            f"{STAGE} again"
        )
    return images, {"label_version": version, "stage": STAGE, **settings}


_SEPARATOR = re.compile(r"[^0-9A-Za-z]")


def unlabelled_crops(lake: Lake, lacking: Literal["label", "n_craters"], columns: Sequence[str] = ()) -> pd.DataFrame:
    """List the lake's kept crops without a label of one kind.

    A label of a crop's tile counts as the crop's.

    Args:
        lake: has the crops.
        lacking: ``label`` for crops without a class, ``n_craters`` for those without outlines.
        columns: further columns of the crops' manifests.

    Returns:
        ``image_id, observation, chip`` (path of the PNG), ``chip_sha`` (fingerprint of how it was cut) and ``columns``.

    Raises:
        MarsError: there are none.
    """
    crops = kept_crops(lake, columns)
    if crops.empty:
        raise MarsError("there are no crops to predict: materialize 'hirise_images' and 'crops' for an observation")
    every = crops.rename(columns={"crop_id": "image_id", "cut": "chip_sha"}).assign(chip=crops["path"].map(str))
    if lake.labelled_crops.exists():
        labels = read_labelled_crops(lake, ["image_id", "original", lacking])
        labels = labels[labels[lacking].notna()]
        every = every[~every["image_id"].isin(_and_beginnings({*labels["image_id"], *labels["original"]}))]
    if every.empty:
        what = "a class" if lacking == "label" else "outlines"
        raise MarsError(f"all crops already have {what}: cut other observations")
    return every[["image_id", "observation", "chip", "chip_sha", *columns]].reset_index(drop=True)


def _and_beginnings(names: set[str]) -> set[str]:
    """Add what precedes any separator in a name.

    A tile's name begins with its crop's.
    """
    return names | {name[: separator.start()] for name in names for separator in _SEPARATOR.finditer(name)}
