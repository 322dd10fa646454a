"""Hashes of files and of settings, and lots that follow from a name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lot(name: str) -> float:
    """A number in [0, 1) that follows from a name alone, as if drawn: for splits that other names coming or going leave
    be.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def fingerprint(*parts: Any) -> str:
    """A stable sha256 over JSON-able values: the same settings and inputs give the same fingerprint in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
