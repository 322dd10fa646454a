"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest

from mars_assets.lake import Lake


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real Mars data and numerical references, found by MARS_SHARED. In CI its absence is a failure, not a skip."""
    path = Path(os.environ.get("MARS_SHARED", "../shared")).resolve()
    if not (path / "parity" / "reference.npz").exists():
        message = f"no reference data at {path}: set MARS_SHARED"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path / "lake")
