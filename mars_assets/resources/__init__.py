"""Resources: the lake, the device and the archive, as Dagster configures them."""

from mars_assets.resources.archive import ArchiveResource
from mars_assets.resources.compute import ComputeResource
from mars_assets.resources.lake import LakeResource

__all__ = ["ArchiveResource", "ComputeResource", "LakeResource"]
