"""Layers of networks that contain an encoder, for layer-wise learning rates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def below(prefix: str, matcher: Mapping[str, Any]) -> dict[str, Any]:
    """Let a ``group_matcher`` of timm's format match names that have a prefix."""

    def moved(pattern: str) -> str:
        return f"^{re.escape(prefix)}(?:{pattern.removeprefix('^')})"

    return {
        name: moved(found) if isinstance(found, str) else [(moved(pattern), place) for pattern, place in found]
        for name, found in matcher.items()
    }
