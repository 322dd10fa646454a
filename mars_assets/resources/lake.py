"""The lake as a resource."""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.lake import DEFAULT_LAKE, Lake

LAKE_POOL = "lake"
"""The concurrency pool for the steps that write the table of labels and the tensors: one writer at a time."""


class LakeResource(dg.ConfigurableResource[Any]):
    """Where all files are."""

    root: str = Field(default="", description="The lake's folder. Empty: the variable MARS_LAKE, or else data_lake.")

    def open(self) -> Lake:
        return Lake.at(self.root or os.environ.get("MARS_LAKE") or DEFAULT_LAKE)
