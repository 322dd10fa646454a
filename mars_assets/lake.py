"""The lake: the one place that knows where a file lies, and how it is written so that it is whole or absent.

Every write goes to a temporary name in the target's folder, is flushed to disk and renamed. A run killed at any moment
leaves the last good file; its temporary is recognised by its name (``.NAME.tmp-…``), and swept up by the first process
that writes into the folder a day later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from mars_assets.errors import MarsError, MissingInputError

DEFAULT_LAKE = "data_lake"
"""Where the lake is if nobody says otherwise, relative to the working directory."""


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
        return self.root / "observations.csv"

    @property
    def inbox(self) -> Path:
        return self.root / "inbox"

    # imagery
    @property
    def observations(self) -> Path:
        return self.root / "imagery" / "observations.parquet"

    @property
    def index(self) -> Path:
        """HiRISE's cumulative index as Parquet; the files it was read from lie in a folder beside it."""
        return self.root / "imagery" / "index.parquet"

    def products(self, observation: str) -> Path:
        """The folder of an observation's downloaded files and their ledger."""
        return self.root / "imagery" / "hirise" / observation

    @property
    def all_crops(self) -> Path:
        return self.root / "imagery" / "crops"

    def crops(self, observation: str) -> Path:
        """The folder of an observation's crops; ``crops.parquet`` in it is their manifest."""
        return self.all_crops / observation

    # labels
    @property
    def labels(self) -> Path:
        return self.root / "labels"

    @property
    def masks(self) -> Path:
        """The labelled images' masks, a folder for each annotation."""
        return self.labels / "masks"

    @property
    def labelled_crops(self) -> Path:
        return self.labels / "labelled_crops.parquet"

    # tensors
    def tensors(self, stage: str) -> Path:
        """The folder of a tensor stage (``reflectance``, ``imputed_means``, …); ``manifest.parquet`` in it lists its chips."""
        return self.root / "tensors" / stage

    # weights and models
    def foundation(self, variant: str) -> Path:
        """The folder in which a variant's weights are published, see :mod:`mars_assets.storage.published`."""
        return self.root / "foundation" / variant

    @property
    def current_foundation(self) -> Path:
        """``current.json``: which variant ``prithvi_weights`` made last."""
        return self.root / "foundation" / "current.json"

    def model(self, name: str) -> Path:
        return self.root / "models" / name

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

    def metrics(self, table: str) -> Path:
        """A metrics table's Parquet file; its twins share the stem."""
        return self.root / "metrics" / f"{table}.parquet"

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
