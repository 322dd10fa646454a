"""The image archive as a resource."""

import os
from typing import Any

import dagster as dg
from pydantic import Field

from mars_assets.imagery.download import Archive

HIRISE_ARCHIVE = "https://hirise-pds.lpl.arizona.edu/PDS"

ARCHIVE_POOL = "archive"
"""The concurrency pool of the steps that download from the archive: two at a time on all hosts together, where
``mars-assets deploy`` has set its limit, otherwise one.
"""


class ArchiveResource(dg.ConfigurableResource[Any]):
    """The archive that HiRISE products are downloaded from."""

    base_url: str = Field(
        default="",
        description="Base address of the archive or a mirror. If empty, MARS_HIRISE_ARCHIVE or HiRISE's own archive.",
    )
    contact: str = Field(
        default="",
        description="E-mail address or web page for the User-Agent, so that the archive's operators can reach you. If "
        "empty, MARS_CONTACT.",
    )

    def open(self) -> Archive:
        """Resolve the settings and the environment to an archive."""
        return Archive(
            base_url=self.base_url or os.environ.get("MARS_HIRISE_ARCHIVE") or HIRISE_ARCHIVE,
            contact=self.contact or os.environ.get("MARS_CONTACT", ""),
        )
