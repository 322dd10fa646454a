"""Exports for the assets of labels."""

from mars_assets_tests.labels.conftest import coco_entries, write_zip

__all__ = ["coco_entries", "write_zip"]
