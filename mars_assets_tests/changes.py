"""Random changes of texts, JSON and bytes, for fuzz tests."""

import struct
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mars_assets.errors import MarsError
from mars_assets.labels.zip_archive import _DAMAGE

T = TypeVar("T")

fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
"""Settings of a fuzz test, which ``--hypothesis-profile=long`` repeats for an hour or so."""

DAMAGED_ZIP = (*_DAMAGE, RuntimeError, LookupError, struct.error)
"""Exceptions of zipfile on a zip that was changed, also on one that claims to be encrypted."""

PIECES = st.one_of(
    st.sampled_from(["", " ", "0", "1", "-1", "1e400", "nan", "9" * 40, "true", "null", "crater", "Crater ", "ridge"]),
    st.sampled_from(
        ["../", "\\", "\x00", "\ufeff", "é", "e\u0301", "\u00a0", ";", ",", "\t", "\r", "\n", '"', "[", "{"]
    ),
    st.text(max_size=6),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**20), 10**20), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=6,
)


def changed_json(draw: st.DrawFn, content: Any) -> Any:
    """Replace, remove or repeat something at a random place."""
    place, way = content, []
    while isinstance(place, dict | list) and place and (not way or draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        way.append((place, key))
        place = place[key]
    holder, key = way[-1]
    match draw(st.sampled_from(["replace", "remove", "repeat"])):
        case "replace":
            holder[key] = draw(VALUES)
        case "remove":
            del holder[key]
        case _ if isinstance(holder, list):
            holder.append(holder[key])
    return content


def changed_text(draw: st.DrawFn, text: str) -> str:
    """Replace a few characters at a random place."""
    start = draw(st.integers(0, len(text)))
    stop = min(len(text), start + draw(st.integers(0, 8)))
    return text[:start] + draw(PIECES) + text[stop:]


def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut off the end, or invert a few bits."""
    if not content or draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def outcome(read: Callable[[], T]) -> tuple[T | None, str]:
    """Return what is read, or the message of a refusal. Any other exception is a finding."""
    try:
        return read(), ""
    except MarsError as error:
        return None, str(error)
