"""The lake: the paths of all files.

:class:`Lake` defines the paths below its folder. The constants are names of files in folders that functions take on
their own: those of weights, a model version, an observation's products or crops, and a stage's chips. Reading and
writing belong to :mod:`mars_assets.storage.files`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from mars_assets.errors import MarsError, MissingInputError
from mars_assets.storage.files import user_path
from mars_assets.storage.published import POINTER

DEFAULT_LAKE = "data_lake"
"""The default folder of the lake, relative to the working directory."""

# In the inbox, and in the folders of an observation's products, its crops, and a stage's chips.
REJECTED = "rejected"
LEDGER = "ledger.json"
CROPS = "crops.parquet"
CHIPS = "manifest.parquet"

# In a folder of weights, and in that of a model version, finished or in training.
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
LOAD_REPORT = "load_report.json"
PROVENANCE = "provenance.json"
IMAGES = "images.parquet"  # training and validation images of a version
HISTORY = "history.parquet"
MODEL_CARD = "card.md"
NETWORK = "network.json"
SEGMENTER = "model.pth"
MMSEG_CONFIG = "config.py"
MARS_WEIGHTS = "weights"  # folder of the weights in a version of mars_weights
SCRATCH = "training"
SETTINGS = "settings.json"
CHECKPOINT = "checkpoint.pt"
# Results of a finished version: on labelled images, and on crops without labels.
PREDICTIONS, PREDICTIONS_OF_CROPS = "predictions.json", "predictions_of_crops.json"
MASKS, MASKS_OF_CROPS = "predictions", "predictions_of_crops"
COUNTS = "counts.json"
CRATERS, CRATERS_OF_CROPS = "craters.json", "craters_of_crops.json"
CALIBRATION, CANDIDATES = "calibration.json", "candidates.json"
# In the folder of a scene's map.
PROBABILITY, OVERVIEW, PAGE = "probability.tif", "overview.png", "map.html"
GEOPACKAGE, CRATERS_TABLE, CRATERS_CSV = "craters.gpkg", "craters.parquet", "craters.csv"
SCAN_STATE = "state.json"  # of an unfinished map
INJECTED = "injected.parquet"  # craters drawn into the scene and looked for
SIZE_FREQUENCY, COUNTS_BY_SIZE = "size_frequency.png", "counts_by_size.csv"
# In the folder of a comparison with somebody else's craters.
COMPARISON_SUMMARY, COMPARISON_ROWS, COMPARISON_FIGURE = "comparison.json", "comparison.csv", "comparison.png"
MATCHES = "matches.csv"
SHIFTS = "_shifts.csv"  # between the scenes of a catalogue, as a suffix of its name
# In the folder of a version that a sweep trained.
SCORES = "scores.json"
EVIDENCE = "held_back.parquet"  # predictions for the held-out images


@dataclass(frozen=True)
class LakePath:
    """A fixed path in a lake, which :class:`Lake` has as an attribute.

    Args:
        relative: the path below the lake's folder.
        description: what lies there, for the manual.
    """

    relative: str
    description: str

    def __get__(self, lake: Lake, kind: type[Lake]) -> Path:
        return lake.root / self.relative


@dataclass(frozen=True)
class Lake:
    """The paths of all files below one folder.

    Args:
        root: the lake's folder, ``MARS_LAKE`` or ``data_lake``.
    """

    root: Path

    @classmethod
    def at(cls, address: str | Path) -> Lake:
        """Open the lake at a path.

        Raises:
            MarsError: the address is not a folder in the local file system.
        """
        if "://" in str(address):
            raise MarsError(
                f"MARS_LAKE={address}: the lake must be a local folder. Mount or copy the bucket, and set MARS_LAKE to "
                "that folder"
            )
        path = user_path(address).resolve()
        if path.exists() and not path.is_dir():
            raise MarsError(f"MARS_LAKE={address} is a file: set it to a folder")
        return cls(path)

    # user input
    observations_csv = LakePath("observations.csv", "The user's list of observations.")
    class_names_csv = LakePath("class_names.csv", "The user's meanings of class names in exports.")
    inbox = LakePath("inbox", "The folder into which users put label exports, as zips.")
    rejected = LakePath(
        f"inbox/{REJECTED}", "The folder of rejected exports, each with a text file that gives the reason."
    )
    catalogues = LakePath("catalogues", "The user's crater catalogues, to compare with.")

    # imagery
    imagery = LakePath("imagery", "The folder of all imagery.")
    observations = LakePath(
        "imagery/observations.parquet", "The selected observations with their products and addresses."
    )
    index = LakePath("imagery/index.parquet", "HiRISE's cumulative index as Parquet.")
    index_products = LakePath("imagery/index", "The folder of the files that the index was read from.")
    all_products = LakePath("imagery/hirise", "The folder of all downloaded products.")

    def products(self, observation: str) -> Path:
        """Locate an observation's downloaded files and their ledger."""
        return self.all_products / observation

    all_crops = LakePath("imagery/crops", "The folder of the crops of all observations.")

    def crops(self, observation: str) -> Path:
        """Locate the folder of an observation's crops.

        It has versions, each with a manifest, ``crops.parquet``, see :mod:`mars_assets.storage.published`.
        """
        return self.all_crops / observation

    def unlabelled(self, sha256: str) -> Path:
        """Locate additional pretraining images from a zip with this sha256."""
        return self.imagery / "unlabelled" / sha256[:16]

    # labels
    labels = LakePath("labels", "The folder of the current labels.")
    masks = LakePath(
        "labels/masks", "The folder of the masks of labelled images, with a subfolder for each annotation."
    )
    labelled_crops = LakePath("labels/labelled_crops.parquet", "The table of labelled images, one row each.")
    label_images = LakePath("labels/images", "The folder of exported images that are not crops of this lake.")

    # tensors
    all_tensors = LakePath("tensors", "The folder of all chips.")

    def tensors(self, stage: str) -> Path:
        """Locate a tensor stage, such as ``reflectance``.

        Its manifest is ``manifest.parquet``.
        """
        return self.all_tensors / stage

    def chips(self, stage: str) -> Path:
        """Locate the table of a stage's chips."""
        return self.tensors(stage) / CHIPS

    # weights and models
    def foundation(self, variant: str) -> Path:
        """Locate a variant's published weights.

        See :mod:`mars_assets.storage.published`.
        """
        return self.root / "foundation" / variant

    current_foundation = LakePath(
        f"foundation/{POINTER}", "``current.json``, the variant that ``prithvi_weights`` installed last."
    )
    models = LakePath("models", "The folder of all trained models.")

    def model(self, name: str) -> Path:
        """Locate a model's versions."""
        return self.models / name

    def version(self, name: str, version: str) -> Path:
        """Locate a version of a model."""
        return self.model(name) / version

    def current_model(self, name: str) -> Path:
        """``current.json``, the version of a model that is in use."""
        return self.model(name) / POINTER

    # craters
    all_crater_maps = LakePath("craters", "The folder of the crater maps of all observations.")

    def crater_map(self, observation: str) -> Path:
        """Locate the folder of an observation's crater map.

        It has versions, see :mod:`mars_assets.storage.published`.
        """
        return self.all_crater_maps / observation

    def crater_catalogue(self, suffix: str) -> Path:
        """Locate the catalogue of all scenes in a format, such as ``.gpkg``."""
        return self.all_crater_maps / f"catalogue{suffix}"

    features = LakePath("features", "The folder of cached features from frozen encoders; may be deleted at any time.")

    def cache(self, name: str) -> Path:
        """Locate a file of cached results; it may be deleted at any time.

        See :mod:`mars_assets.storage.cache`.
        """
        return self.root / "cache" / f"{name}.json"

    def shown(self, asset: str) -> Path:
        """Locate the cached metadata that an asset displays for unchanged inputs.

        It may be deleted at any time.
        """
        return self.root / "shown" / f"{asset}.json"

    all_metrics = LakePath("metrics", "The folder of all tables of scores and their figures.")

    def metrics(self, table: str, suffix: Literal[".parquet", ".json", ".csv", ".md", ".html"] = ".parquet") -> Path:
        """Locate a metrics table as Parquet, or its copy in another format."""
        return self.all_metrics / f"{table}{suffix}"

    def figure(self, table: str, title: str) -> Path:
        """Locate a figure that belongs to a metrics table."""
        return self.all_metrics / f"{table}_{title}.png"

    def report(self, table: str) -> Path:
        """Locate the report of a metrics table.

        It has small tables, facts and the names of its figures.
        """
        return self.all_metrics / f"{table}_report.json"

    transfer_runs = LakePath(
        "metrics/transfer_study",
        "The folder of transfer studies' predictions, a table for each encoder and seed.",
    )

    def study_predictions(self, key: str) -> Path:
        """Locate the predictions of a part of a transfer study."""
        return self.transfer_runs / f"{key}.parquet"

    catalogue_comparisons = LakePath(
        "metrics/catalogue_comparisons", "The folder of the comparisons with the user's crater catalogues."
    )

    def catalogue_comparison(self, catalogue: str) -> Path:
        """Locate the files of the comparison with one of the user's catalogues."""
        return self.catalogue_comparisons / catalogue

    # what ``mars-assets doctor`` notes
    hosts = LakePath("hosts", "The folder of the records of the hosts that use the lake.")
    lake_id = LakePath("hosts/lake.json", "The lake's random id, by which hosts tell whether they have the same lake.")

    def host(self, name: str) -> Path:
        """Locate the record of a host."""
        return self.hosts / f"{name}.host.json"

    def greeting(self, name: str) -> Path:
        """Locate the file that a host replaces while it measures when other hosts see it."""
        return self.hosts / f"{name}.greeting.json"

    # the demonstration
    sample = LakePath("sample", "The archive of the synthetic sample.")
    demo_log = LakePath("demo.log", "Dagster's full log of ``make demo``.")
    demo_config = LakePath("demo.json", "The settings that ``make demo`` trains with.")

    def require(self, wanted: Mapping[str, Path]) -> None:
        """Check that the files of assets exist.

        Args:
            wanted: the file of each asset, in the order in which the assets depend on each other.

        Raises:
            MissingInputError: some are missing; it lists them and the command that materializes the assets.
        """
        missing = {asset: path for asset, path in wanted.items() if not path.exists()}
        if missing:
            raise MissingInputError(",".join(missing), *missing.values())

    def relative(self, path: Path) -> str:
        """Convert a path for tables and metadata.

        It is relative to the lake, with forward slashes.

        Links below the root are not followed, so that a folder of the lake may be on another disk.
        """
        return Path(os.path.normpath(path.absolute())).relative_to(self.root.absolute()).as_posix()

    def inside(self, relative: str) -> Path:
        """Resolve a relative path from a table or metadata.

        Raises:
            MarsError: it is absolute or contains ``..``, so it may point outside the lake.
        """
        address = PurePath(relative)
        if address.is_absolute() or ".." in address.parts:
            raise MarsError(f"{relative!r} is outside the lake {self.root}: materialize the asset that names it again")
        return self.root / address
