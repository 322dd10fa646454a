"""The image archive as a resource."""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.imagery.download import Archive

HIRISE_ARCHIVE = "https://hirise-pds.lpl.arizona.edu/PDS"


class ArchiveResource(dg.ConfigurableResource[Any]):
    """Where HiRISE products are downloaded from."""

    base_url: str = Field(
        default="",
        description="Base address of the archive or a mirror. Empty: MARS_HIRISE_ARCHIVE, or else HiRISE's own.",
    )
    contact: str = Field(
        default="",
        description="Mail or web address for the User-Agent, so that the archive can reach you. Empty: MARS_CONTACT.",
    )

    def open(self) -> Archive:
        return Archive(
            base_url=self.base_url or os.environ.get("MARS_HIRISE_ARCHIVE") or HIRISE_ARCHIVE,
            contact=self.contact or os.environ.get("MARS_CONTACT", ""),
        )
