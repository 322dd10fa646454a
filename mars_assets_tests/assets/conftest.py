"""Exports for the assets of labels, and runs of those of observations."""

from mars_assets_tests.assets.runs import runs
from mars_assets_tests.labels.conftest import coco_entries, write_zip

__all__ = ["coco_entries", "runs", "write_zip"]
