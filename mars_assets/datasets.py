"""What the models read: labelled crops joined with their six-band chips, refused where the two were not made for each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from mars_assets.bands import BandStatistics
from mars_assets.errors import MarsError, ProvenanceError
from mars_assets.imagery.crops import kept_crops
from mars_assets.labels.table import current_label_version, mask_path, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.storage.files import read_table
from mars_assets.tensors.stages import read_manifest


@dataclass(frozen=True)
class Dataset:
    """Images of one task.

    Args:
        images: one row an image: image_id, split, observation (the group that stays in one split), chip (path of the
            six-band GeoTIFF), chip_sha, labels_sha, and ``label`` (1 crater, 0 none) or ``mask`` (path of a PNG);
            ``instances``, the path of the numbered craters, None where a classified image has no outlines.
        provenance: label version, tensor stage and its settings.
    """

    images: pd.DataFrame
    provenance: dict[str, Any]


def classification_dataset(lake: Lake, stage: str, statistics: BandStatistics | None = None) -> Dataset:
    """All classified images.

    Args:
        lake: where they lie.
        stage: the tensor stage whose chips are read, e.g. ``imputed_post_norm``.
        statistics: of the weights that will see them; checked where given.

    Raises:
        MissingInputError: ``labelled_crops`` or the stage has not been made.
        ProvenanceError: they contradict each other or the weights.
        MarsError: no image has a class.
    """
    images, provenance = _joined(lake, stage, statistics)
    images = images[images["label"].notna()]
    if images.empty:
        raise MarsError(
            "no labelled image has a class: put a folder-classification export (SPLIT/Crater, SPLIT/NoCrater) into "
            f"{lake.inbox} and make labelled_crops, reflectance and {stage} again"
        )
    outlined = [
        None if pd.isna(row.n_craters) else str(mask_path(lake, "instances", row)) for row in images.itertuples()
    ]
    images = images.assign(label=(images["label"] == "crater").astype(int), instances=outlined)
    columns = ["image_id", "split", "observation", "chip", "chip_sha", "labels_sha", "label", "instances"]
    return Dataset(images[columns], provenance)


def segmentation_dataset(lake: Lake, stage: str, annotation: str, statistics: BandStatistics | None = None) -> Dataset:
    """All outlined images, with the masks of one annotation; see :func:`classification_dataset`."""
    images, provenance = _joined(lake, stage, statistics)
    images = images[images["n_craters"].notna()]
    if images.empty:
        raise MarsError(
            f"no labelled image has crater outlines: put a COCO segmentation export into {lake.inbox} and make "
            f"labelled_crops, reflectance and {stage} again"
        )
    images = images.assign(
        mask=[str(mask_path(lake, annotation, row)) for row in images.itertuples()],
        instances=[str(mask_path(lake, "instances", row)) for row in images.itertuples()],
    )
    columns = ["image_id", "split", "observation", "chip", "chip_sha", "labels_sha", "mask", "instances"]
    return Dataset(images[columns], {**provenance, "annotation": annotation})


def _joined(lake: Lake, stage: str, statistics: BandStatistics | None) -> tuple[pd.DataFrame, dict[str, Any]]:
    labels = read_labelled_crops(lake)
    version = current_label_version(lake)
    manifest, settings = read_manifest(lake, stage)
    mismatches = []
    if settings["label_version"] != version:
        mismatches.append(
            f"{stage} was made for the labels {settings['label_version'][:12]} and labelled_crops holds {version[:12]}: "
            f"make reflectance and {stage} again"
        )
    if statistics is not None and settings["statistics"] != statistics.name:
        mismatches.append(
            f"{stage} was made with the statistics {settings['statistics']!r} and the weights want {statistics.name!r}: "
            f"make reflectance with the configuration {{statistics: {statistics.name}}}, then {stage} again"
        )
    if mismatches:
        raise ProvenanceError("; ".join(mismatches))
    chips = manifest.set_index("image_id")
    images = labels[labels["image_id"].isin(chips.index)]
    if len(images) != len(labels):
        missing = sorted(set(labels["image_id"]) - set(chips.index))
        raise ProvenanceError(f"{stage} lacks {len(missing)} labelled images, e.g. {missing[0]}: make it again")
    images = images.assign(
        observation=images["group"],
        chip=[str(lake.inside(chips.at[image, "file"])) for image in images["image_id"]],
        chip_sha=[chips.at[image, "chip_sha"] for image in images["image_id"]],
    )
    provenance = {
        "label_version": version,
        "stage": stage,
        **{k: v for k, v in settings.items() if k != "label_version"},
    }
    return images, provenance


_SEPARATOR = re.compile(r"[^0-9A-Za-z]")


def unlabelled_crops(lake: Lake, lacking: Literal["label", "n_craters"], columns: Sequence[str] = ()) -> pd.DataFrame:
    """The lake's kept crops that lack a label of one kind, they and every tile of theirs.

    Args:
        lake: where they are.
        lacking: ``label`` for crops without a class, ``n_craters`` for those without outlines.
        columns: further ones of the crops' manifests.

    Returns:
        ``image_id, observation, chip`` (path of the PNG), ``chip_sha`` (of how it was cut) and ``columns``.

    Raises:
        MarsError: there are none.
    """
    crops = kept_crops(lake, columns)
    if crops.empty:
        raise MarsError("there are no crops to predict: make 'hirise_images' and 'crops' of an observation")
    every = crops.rename(columns={"crop_id": "image_id", "cut": "chip_sha"}).assign(chip=crops["path"].map(str))
    if lake.labelled_crops.exists():
        labels = read_table(lake.labelled_crops, "labelled_crops", ["image_id", "original", lacking])
        labels = labels[labels[lacking].notna()]
        every = every[~every["image_id"].isin(_and_beginnings({*labels["image_id"], *labels["original"]}))]
    if every.empty:
        what = "have a class" if lacking == "label" else "have outlines"
        raise MarsError(f"all crops {what} already: cut other observations")
    return every[["image_id", "observation", "chip", "chip_sha", *columns]].reset_index(drop=True)


def _and_beginnings(names: set[str]) -> set[str]:
    """Names, and what is before any separator in them: a tile is called as its crop and something after that."""
    return names | {name[: separator.start()] for name in names for separator in _SEPARATOR.finditer(name)}
