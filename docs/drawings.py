"""Drawings of the manual as SVG, computed from what they show: the import contract and the definitions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from html import escape
from pathlib import Path

PROJECT = Path(__file__).parent.parent
_SPACE = 14


def layers() -> list[list[str]]:
    """Return the layers of the import contract in ``pyproject.toml``, from the top: the modules of each.

    Raises:
        LookupError: ``pyproject.toml`` has no contract of type ``layers``.
    """
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    split = [re.split(r"\s*[|:]\s*", row) for row in rows]
    return [[name.strip("() ").removeprefix("mars_assets.") for name in row] for row in split]


def layer_picture() -> str:
    """Draw the layers as rows of boxes; a module imports only from rows below its own."""
    width, height = 760, 30
    rows = layers()
    parts = []
    for index, names in enumerate(rows):
        each = (width - _SPACE * (len(names) - 1)) / len(names)
        parts += [
            _box(column * (each + _SPACE), index * (height + 6), each, height, name)
            for column, name in enumerate(names)
        ]
    return _svg(width, len(rows) * (height + 6), parts, "The layers of mars_assets, the top one first")


def lineage() -> str:
    """Draw the asset graph from top to bottom; an arrow that a longer path implies is left out."""
    from mars_assets.definitions import defs

    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.toposorted_asset_keys
    }
    above: dict[str, set[str]] = {}
    for name, direct in parents.items():
        above[name] = direct.union(*(above[parent] for parent in direct))
    arrows = {
        name: [parent for parent in sorted(direct) if not any(parent in above[other] for other in direct)]
        for name, direct in parents.items()
    }
    rank: dict[str, int] = {}
    for name in parents:
        rank[name] = max((rank[parent] + 1 for parent in parents[name]), default=0)
    for name in parents:  # what needs nothing stands right above what needs it first
        if not parents[name]:
            rank[name] = min(rank[child] for child, direct in parents.items() if name in direct) - 1
    return _graph(arrows, rank)


def _graph(arrows: dict[str, list[str]], rank: dict[str, int]) -> str:
    width, box_width, box_height, step = 960, 172, 30, 66
    place: dict[str, float] = {}
    for level in range(max(rank.values()) + 1):
        names = [name for name in rank if rank[name] == level]
        wanted = {name: sum(place[p] for p in arrows[name]) / len(arrows[name]) if arrows[name] else 0.0 for name in names}
        ordered = sorted(names, key=lambda name: (wanted[name], name))
        for index, name in enumerate(ordered):
            place[name] = width * (index + 0.5) / len(ordered)
    parts = []
    for name, direct in arrows.items():
        for parent in direct:
            x0, y0, x1, y1 = place[parent], rank[parent] * step + box_height, place[name], rank[name] * step
            bend = (y1 - y0) / 2
            parts.append(f'<path d="M{x0:.0f},{y0} C{x0:.0f},{y0 + bend:.0f} {x1:.0f},{y1 - bend:.0f} {x1:.0f},{y1}"/>')
    for name in arrows:
        box = _box(place[name] - box_width / 2, rank[name] * step, box_width, box_height, name)
        parts.append(f'<a href="#{name}">{box}</a>')
    return _svg(width, max(rank.values()) * step + box_height, parts, "The assets and what each needs")


def _box(x: float, y: float, width: float, height: float, text: str) -> str:
    middle = f'x="{x + width / 2:.1f}" y="{y + height / 2 + 4:.1f}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="4"/><text {middle}>{escape(text)}</text>'
    )


def _svg(width: int, height: int, parts: list[str], title: str) -> str:
    return (
        f'<svg class="drawing" viewBox="-2 -2 {width + 4} {height + 4}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


DRAWINGS: dict[str, Callable[[], str]] = {"layers": layer_picture, "lineage": lineage}
"""The drawings by the name that pages call them."""
