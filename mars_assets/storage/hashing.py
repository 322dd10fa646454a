"""Hashes of files and settings, and numbers drawn deterministically by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sha256_file(path: Path) -> str:
    """Compute the sha256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lot(name: str) -> float:
    """Derive a pseudo-random number in [0, 1) from a name alone.

    Splits drawn this way do not change when other names are added or removed.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def fingerprint(*parts: Any) -> str:
    """Compute a sha256 of JSON-serializable values that is the same in every process."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
