"""The lake as a resource."""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.lake import DEFAULT_LAKE, Lake

LAKE_POOL = "lake"
"""The concurrency pool of the steps that write the table of labels and the tensors: one writer at a time."""


class LakeResource(dg.ConfigurableResource[Any]):
    """The lake, which contains all files."""

    root: str = Field(default="", description="Folder of the lake. If empty, the variable MARS_LAKE or data_lake.")

    def open(self) -> Lake:
        """Resolve the settings and the environment to a lake."""
        return Lake.at(self.root or os.environ.get("MARS_LAKE") or DEFAULT_LAKE)
