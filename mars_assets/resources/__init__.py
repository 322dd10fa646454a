"""Dagster resources: the lake, the device, the archive and Roboflow."""

from mars_assets.resources.archive import ArchiveResource
from mars_assets.resources.compute import ComputeResource
from mars_assets.resources.lake import LakeResource
from mars_assets.resources.roboflow import RoboflowResource

__all__ = ["ArchiveResource", "ComputeResource", "LakeResource", "RoboflowResource"]
