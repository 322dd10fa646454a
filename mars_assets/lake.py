"""The lake: the one place that knows where a file lies.

:class:`Lake` has the addresses below its folder; the constants are the names of files in folders that are passed around
by themselves: of weights, of a model version, of an observation's products and crops, of a stage's chips.
:mod:`mars_assets.storage.files` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from mars_assets.errors import MarsError, MissingInputError
from mars_assets.storage.published import POINTER

DEFAULT_LAKE = "data_lake"
"""Where the lake is if nobody says otherwise, relative to the working directory."""

# In the inbox, in the folder of an observation's products, of its crops, and of a stage's chips.
REJECTED = "rejected"
LEDGER = "ledger.json"
CROPS = "crops.parquet"
CHIPS = "manifest.parquet"

# In a folder of weights, and in that of a model version or of one that is being trained.
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
LOAD_REPORT = "load_report.json"
PROVENANCE = "provenance.json"
IMAGES = "images.parquet"  # that a version was trained and validated on
HISTORY = "history.parquet"
MODEL_CARD = "card.md"
NETWORK = "network.json"
SEGMENTER = "model.pth"
MMSEG_CONFIG = "config.py"
MARS_WEIGHTS = "weights"  # the folder of the weights in a version of mars_weights
SCRATCH = "training"
SETTINGS = "settings.json"
# What was computed with a finished version: of labelled images, and of crops without labels.
PREDICTIONS, PREDICTIONS_OF_CROPS = "predictions.json", "predictions_of_crops.json"
MASKS, MASKS_OF_CROPS = "predictions", "predictions_of_crops"
COUNTS = "counts.json"
CRATERS, CRATERS_OF_CROPS = "craters.json", "craters_of_crops.json"
# Of a version that a sweep trained.
SCORES = "scores.json"
EVIDENCE = "held_back.parquet"  # its predictions of the images held back


@dataclass(frozen=True)
class Lake:
    """Addresses below one folder.

    Args:
        root: the lake's folder, ``MARS_LAKE`` or ``data_lake``.
    """

    root: Path

    @classmethod
    def at(cls, address: str | Path) -> Lake:
        """The lake at an address.

        Raises:
            MarsError: the address is not a folder of this machine's file system.
        """
        if "://" in str(address):
            raise MarsError(
                f"MARS_LAKE={address}: the lake is a local folder. Mount the bucket, or copy it, and name the folder"
            )
        path = Path(address).expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise MarsError(f"MARS_LAKE={address} is a file. Name a folder")
        return cls(path)

    # what people put in
    @property
    def observations_csv(self) -> Path:
        """The list of observations that people write."""
        return self.root / "observations.csv"

    @property
    def inbox(self) -> Path:
        """The exports of labels, as zips, that people put in."""
        return self.root / "inbox"

    @property
    def rejected(self) -> Path:
        """The exports that were put aside, each with a text that says why."""
        return self.inbox / REJECTED

    # imagery
    @property
    def imagery(self) -> Path:
        """The folder of all imagery."""
        return self.root / "imagery"

    @property
    def observations(self) -> Path:
        """The chosen observations, resolved to products and addresses."""
        return self.imagery / "observations.parquet"

    @property
    def index(self) -> Path:
        """HiRISE's cumulative index as Parquet."""
        return self.imagery / "index.parquet"

    @property
    def index_products(self) -> Path:
        """The folder of the files that the index was read from."""
        return self.imagery / "index"

    @property
    def all_products(self) -> Path:
        """The folder of all downloaded products."""
        return self.imagery / "hirise"

    def products(self, observation: str) -> Path:
        """The folder of an observation's downloaded files and their ledger."""
        return self.all_products / observation

    @property
    def all_crops(self) -> Path:
        """The folder of the crops of all observations."""
        return self.imagery / "crops"

    def crops(self, observation: str) -> Path:
        """The folder of an observation's crops; ``crops.parquet`` in it is their manifest."""
        return self.all_crops / observation

    def crops_manifest(self, observation: str) -> Path:
        """The table of an observation's crops."""
        return self.crops(observation) / CROPS

    def unlabelled(self, sha256: str) -> Path:
        """The images of a zip of further images to pretrain on, which has this sha256."""
        return self.imagery / "unlabelled" / sha256[:16]

    # labels
    @property
    def labels(self) -> Path:
        """The folder of the labels in force."""
        return self.root / "labels"

    @property
    def masks(self) -> Path:
        """The labelled images' masks, a folder for each annotation."""
        return self.labels / "masks"

    @property
    def labelled_crops(self) -> Path:
        """The table of labelled images, one row each."""
        return self.labels / "labelled_crops.parquet"

    @property
    def label_images(self) -> Path:
        """Images of exports that are not crops of this lake."""
        return self.labels / "images"

    # tensors
    @property
    def all_tensors(self) -> Path:
        """The folder of all chips."""
        return self.root / "tensors"

    def tensors(self, stage: str) -> Path:
        """The folder of a tensor stage: ``reflectance``, ``imputed_means`` and the like."""
        return self.all_tensors / stage

    def chips(self, stage: str) -> Path:
        """The table of a stage's chips."""
        return self.tensors(stage) / CHIPS

    # weights and models
    def foundation(self, variant: str) -> Path:
        """The folder in which a variant's weights are published, see :mod:`mars_assets.storage.published`."""
        return self.root / "foundation" / variant

    @property
    def current_foundation(self) -> Path:
        """``current.json``: which variant ``prithvi_weights`` made last."""
        return self.root / "foundation" / POINTER

    @property
    def models(self) -> Path:
        """The folder of all trained models."""
        return self.root / "models"

    def model(self, name: str) -> Path:
        """The folder of a model's versions."""
        return self.models / name

    def version(self, name: str, version: str) -> Path:
        """The folder of a version of a model."""
        return self.model(name) / version

    def current_model(self, name: str) -> Path:
        """``current.json``: which version of a model is in use."""
        return self.model(name) / POINTER

    @property
    def features(self) -> Path:
        """What frozen encoders made of images; may be deleted at any time."""
        return self.root / "features"

    def cache(self, name: str) -> Path:
        """A file of results that are cached, see :mod:`mars_assets.storage.cache`; may be deleted at any time."""
        return self.root / "cache" / f"{name}.json"

    def shown(self, asset: str) -> Path:
        """What an asset shows of what it is made of, while that stays the same; may be deleted at any time."""
        return self.root / "shown" / f"{asset}.json"

    @property
    def all_metrics(self) -> Path:
        """The folder of all tables of scores, and their figures."""
        return self.root / "metrics"

    def metrics(self, table: str, suffix: Literal[".parquet", ".json", ".csv", ".md"] = ".parquet") -> Path:
        """A metrics table's Parquet file, or its twin in another format."""
        return self.all_metrics / f"{table}{suffix}"

    def figure(self, table: str, title: str) -> Path:
        """A figure that goes with a metrics table."""
        return self.all_metrics / f"{table}_{title}.png"

    def report(self, table: str) -> Path:
        """What is shown with a metrics table: small tables, facts and the names of its figures."""
        return self.all_metrics / f"{table}_report.json"

    # the demonstration
    @property
    def sample(self) -> Path:
        """The archive of the synthetic sample."""
        return self.root / "sample"

    @property
    def demo_log(self) -> Path:
        """Dagster's full log of ``make demo``."""
        return self.root / "demo.log"

    @property
    def demo_config(self) -> Path:
        """The settings that ``make demo`` trains with."""
        return self.root / "demo.json"

    def require(self, wanted: Mapping[str, Path]) -> None:
        """Looks for what assets have made.

        Args:
            wanted: the file that each asset makes, in the order in which the assets depend on each other.

        Raises:
            MissingInputError: some are not there; names all of them and the command that makes them.
        """
        missing = {asset: path for asset, path in wanted.items() if not path.exists()}
        if missing:
            raise MissingInputError(",".join(missing), *missing.values())

    def relative(self, path: Path) -> str:
        """A path as stored in tables and metadata: relative to the lake, with forward slashes.

        Links below the root are not followed: a folder of the lake may lie on another disk.
        """
        return Path(os.path.normpath(path.absolute())).relative_to(self.root.absolute()).as_posix()

    def inside(self, relative: str) -> Path:
        """The path of a stored relative address.

        Raises:
            MarsError: it leads out of the lake: it is absolute, or goes up.
        """
        address = PurePath(relative)
        if address.is_absolute() or ".." in address.parts:
            raise MarsError(f"{relative!r} leads out of the lake {self.root}")
        return self.root / address
