"""Drawings of the manual as SVG, computed from what they show: the import contract and the definitions."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Mapping
from html import escape
from itertools import pairwise
from pathlib import Path

from mars_assets.definitions import defs

PROJECT = Path(__file__).parent.parent
BOX = (170, 32)
"""Width and height of an asset's box."""
GAP = 10


def layer_picture() -> str:
    """Draw the layers as boxes, the top one first; modules that may import Dagster are shaded."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    of_type = {contract["type"]: contract for contract in contracts}
    rows = [re.split(r"[|:]", row.replace(" ", "")) for row in of_type["layers"]["layers"] if not row.startswith("(")]
    dagsters = {name.removeprefix("mars_assets.") for name in of_type["protected"]["allowed_importers"]}
    width, line, y, parts = 720, 24, 0, []
    for names in rows:
        shade = ' class="shaded"' if dagsters.issuperset(names) else ""
        parts.append(f'<rect{shade} x="0" y="{y}" width="{width}" height="{line * len(names)}" rx="4"/>')
        for name in names:
            at = f'y="{y + line / 2 + 4}"'
            parts.append(f'<text class="name" x="10" {at}>{name}</text>')
            parts.append(f'<text class="said" x="140" {at}>{_summary(name)}</text>')
            y += line
        y += 5
    return _svg(width, y, parts, "The layers of mars_assets, the top one first")


def _summary(module: str) -> str:
    """Return the first sentence of a module's docstring."""
    path = PROJECT / "mars_assets" / module
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(source.read_text())) or "").split("\n\n")[0].split()).replace("``", "")
    sentence = re.split(r"(?<=[.?]) ", text)[0]
    return escape((sentence if len(sentence) <= 90 else re.split(r"[:;]", sentence)[0]).rstrip("."))


def lineage() -> str:
    """Draw the asset graph from top to bottom; an arrow that a longer path implies is left out."""
    graph = defs.resolve_asset_graph()
    parents = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys}
        for key in graph.toposorted_asset_keys
    }
    above: dict[str, set[str]] = {}
    for name, direct in parents.items():
        above[name] = direct.union(*(above[parent] for parent in direct))
    arrows = {
        name: sorted(parent for parent in direct if not any(parent in above[other] for other in direct))
        for name, direct in parents.items()
    }
    rank: dict[str, int] = {}
    for name, needs in arrows.items():
        rank[name] = max((rank[parent] + 1 for parent in needs), default=0)
    for name in arrows:
        if not arrows[name]:  # right above what needs it first
            rank[name] = min(rank[child] for child, needs in arrows.items() if name in needs) - 1
    return _graph(arrows, rank)


def _graph(arrows: Mapping[str, list[str]], rank: Mapping[str, int]) -> str:
    """Place the nodes in rows, and lead arrows over several rows through a place of their own in each row between."""
    step = BOX[1] + 34
    rows: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
    near: dict[str, list[str]] = {}  # what a node, or a place that an arrow passes, is joined to
    chains = []
    for name in arrows:
        rows[rank[name]].append(name)
    for name, direct in arrows.items():
        for parent in direct:
            between = [f"{parent} {name} {number}" for number in range(rank[parent] + 1, rank[name])]
            for number, place in enumerate(between, start=rank[parent] + 1):
                rows[number].append(place)
            chain = [parent, *between, name]
            chains.append(chain)
            for upper, lower in pairwise(chain):
                near.setdefault(upper, []).append(lower)
                near.setdefault(lower, []).append(upper)
    x: dict[str, float] = {}
    for row in rows:
        _spread(row, x)
    for _ in range(24):  # each towards the middle of what it is joined to, as often as it takes to settle
        for row in [*rows, *reversed(rows)]:
            middle = sum(x.values()) / len(x)
            mean = {name: sum(x[other] for other in near[name]) / len(near[name]) for name in row}
            wanted = {name: 0.7 * mean[name] + 0.3 * middle for name in row}  # which keeps the drawing narrow
            row.sort(key=lambda name: wanted[name])
            _spread(row, x, wanted)
    left = min(x[name] for name in arrows) - BOX[0] / 2
    width = max(x[name] for name in arrows) + BOX[0] / 2 - left
    parts = [_arrow([(x[place] - left, _row(place, rank)) for place in chain], step) for chain in chains]
    for name in arrows:
        parts.append(f'<a href="#{name}">{_box(x[name] - left - BOX[0] / 2, rank[name] * step, BOX[0], name)}</a>')
    return _svg(round(width), max(rank.values()) * step + BOX[1], parts, "The assets and what each needs")


def _row(place: str, rank: Mapping[str, int]) -> int:
    return rank[place] if place in rank else int(place.rsplit(" ", 1)[1])


def _spread(row: list[str], x: dict[str, float], wanted: Mapping[str, float] | None = None) -> None:
    """Place a row's nodes in their order, none upon another, near where they are wanted."""
    widths = [GAP if " " in name else BOX[0] for name in row]
    right = 0.0
    for number, (name, width) in enumerate(zip(row, widths, strict=True)):
        least = right + GAP + width / 2 if number else width / 2
        x[name] = max(least, wanted[name]) if wanted and number else wanted[name] if wanted else least
        right = x[name] + width / 2
    if wanted:  # to the left again, by as much as the row was pushed to the right on average
        shift = sum(x[name] - wanted[name] for name in row) / len(row)
        for name in row:
            x[name] -= shift


def _arrow(points: list[tuple[float, int]], step: int) -> str:
    """A smooth line from the lower edge of the first box through the places between to the upper edge of the last."""
    parts = []
    for number, ((x0, row0), (x1, row1)) in enumerate(pairwise(points)):
        y0, y1 = row0 * step + (BOX[1] if number == 0 else BOX[1] / 2), row1 * step + BOX[1] / 2
        if number == len(points) - 2:
            y1 = row1 * step
        middle = (y0 + y1) / 2
        start = f"M{x0:.0f},{y0:.0f} " if number == 0 else ""
        parts.append(f"{start}C{x0:.0f},{middle:.0f} {x1:.0f},{middle:.0f} {x1:.0f},{y1:.0f}")
    return f'<path d="{" ".join(parts)}" marker-end="url(#head)"/>'


def _box(x: float, y: float, width: float, text: str) -> str:
    frame = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BOX[1]}" rx="4"/>'
    return f'{frame}<text x="{x + width / 2:.1f}" y="{y + BOX[1] / 2 + 4:.1f}">{escape(text)}</text>'


def _svg(width: int, height: int, parts: list[str], title: str) -> str:
    head = '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return (
        f'<svg class="drawing" viewBox="-2 -2 {width + 4} {height + 4}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f'<title>{escape(title)}</title><defs>{head}<path d="M0,0 L8,4 L0,8 z"/></marker></defs>{"".join(parts)}</svg>'
    )


DRAWINGS: dict[str, Callable[[], str]] = {"layers": layer_picture, "lineage": lineage}
"""The drawings, by the names that pages call them."""
