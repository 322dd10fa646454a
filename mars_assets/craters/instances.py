"""Single craters in a network's margins.

They are told apart also where they touch or one lies in another.

Craters of a mask are the areas where the margin is above 0. Where two touch, or a small one lies in a large one, the
margin is lower between them, so that they part as the threshold rises. An area is followed from threshold to threshold,
and of all its forms the roundest is the crater. What parts from it is another crater, if it is round itself and stands
out by enough: noise parts, too. Craters that touch where the margin is as high as anywhere are parted where the area is
narrow, and those whose rims cross are the circles on which the arcs of the area's outline lie. Outlines run between the
pixels, where the margin passes the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_THRESHOLDS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0)
_TRUNK = 0.5
"""What retains this share of an area after the threshold rose is the same crater."""
_CLEARLY_ROUND, _ROUND, _ROUNDISH = 0.92, 0.8, 0.65
"""Roundness from which an area is not two craters that touch, from which it may be a part of another, and at least."""
_LONG = 0.45
"""Ratio of the axes below which an area is no crater."""
_AS_ROUND = 0.06
"""Forms whose roundness differs by less are as round, and the lowest threshold is right: higher ones shrink a crater.

To this comes what the pixels of a small crater make of its roundness."""
_NESTED = 0.5
"""Largest diameter of a crater within another, as a share of it."""
_STANDS_OUT = 0.7
"""By how much half of a nested crater's margins must exceed the highest threshold at which it is part of the other."""
_NARROW = 0.75
"""A neck narrower than this, as a share of the narrower of the parts, parts craters that touch."""
_CORNER = 0.02
"""How far an outline may be off between its corners, as a share of the root of the area."""
_OFF_ARC = 0.06
"""How far the outline of craters that cross may be off their circles, as a share of the radius."""
_LEAST_SEEN = 0.3
"""Share of the directions in which the rim of a crater that crosses another must be seen."""
_MOST_ARCS = 12
"""Arcs of an outline from which it is not that of a few craters: to join arcs takes the cube of their number."""
_EXPLAINED = 0.9
"""Intersection over union of an area and craters from which it is made of them."""
_CUT = 0.08
"""Share of the outline along the border of what was seen from which a crater is cut."""
_LEAST_ARC = 0.4
"""Share of the directions in which a cut crater's rim must be seen."""
_OFF = 0.15
"""An outline follows its ellipse where it is off by at most this, as a share of the radius."""
_POINTS = 256
"""Points of an outline at most: more take memory and show no more of a crater."""
_DIRECTIONS = 36
_FEWEST = 4
"""Pixels of which an area has at least so many."""


@dataclass(frozen=True)
class Instance:
    """A crater in an image.

    x is the column and y the row; (0, 0) is the outer corner of the first pixel.

    Args:
        outline: shape (n, 2), x and y, with at most 256 points; the first is repeated at the end.
        x, y: centre.
        diameter: of the disc of equal area, in pixels.
        spread: covariance of the area, (2, 2), in pixels squared.
        roundness: intersection over union of the area and the ellipse of the same covariance; of a crater that crosses
            others, the share of its disc that belongs to the area of all.
        rim_coverage: share of the directions in which the outline follows that ellipse.
        peak: highest margin.
        cut: whether it reaches out of what was seen; centre and diameter are then those of a circle through the rest of
            its outline.
    """

    outline: Float64
    x: float
    y: float
    diameter: float
    spread: Float64
    roundness: float
    rim_coverage: float
    peak: float
    cut: bool = False

    def moved(self, right: float, down: float) -> Instance:
        """Return the crater as a part of a larger image shows it."""
        return replace(self, outline=self.outline + np.array([right, down]), x=self.x + right, y=self.y + down)

    def fitted(self, x: float, y: float, diameter: float) -> Instance:
        """Return the crater at another place and of another size, in the same shape."""
        return self.moved(-self.x, -self.y).scaled(diameter / self.diameter).moved(x, y)

    def scaled(self, factor: float) -> Instance:
        """Return the crater in an image that is larger by a factor."""
        return replace(
            self,
            outline=self.outline * factor,
            x=self.x * factor,
            y=self.y * factor,
            diameter=self.diameter * factor,
            spread=self.spread * factor**2,
        )


class _Part(NamedTuple):
    """Margins in a box of an image, and the box's first row and column."""

    values: Float32
    top: int
    left: int


class _Arcs(NamedTuple):
    """The circle of a crater that crosses others, and what is seen of it.

    Both are in pixels of the image.

    Args:
        centre: x and y.
        radius: of the circle.
        points: of the outline that lie on it, shape (n, 2).
    """

    centre: Float64
    radius: float
    points: Float64


@dataclass(frozen=True)
class _Area:
    """A connected area without holes: the pixels of a box of an image.

    It is what is above the threshold, or if ``parted`` what lies on one side of a line along the lowest margins, or
    with ``arcs`` a disc.
    """

    pixels: Mask
    top: int
    left: int
    threshold: float
    peak: float
    roundness: float
    parted: bool = False
    stands_out: bool = True
    arcs: _Arcs | None = None

    @property
    def size(self) -> int:
        return int(np.count_nonzero(self.pixels))

    @property
    def diameter(self) -> float:
        return float(2 * np.sqrt(self.size / np.pi))

    def box(self, top: int, left: int) -> tuple[slice, slice]:
        """Locate its box in one with this corner."""
        rows, columns = self.pixels.shape
        return slice(self.top - top, self.top - top + rows), slice(self.left - left, self.left - left + columns)

    def cut(self, part: _Part) -> _Part:
        """Cut its box out of a part, with -1 around it."""
        values = part.values[self.box(part.top, part.left)]
        return _Part(np.where(self.pixels, values, np.float32(-1)), self.top, self.left)

    def contains(self, other: _Area) -> bool:
        """Test whether another area lies in this one."""
        rows, columns = other.box(self.top, self.left)
        inside = rows.start >= 0 and columns.start >= 0 and self.size > other.size
        pixels = self.pixels[rows, columns]
        return bool(inside and pixels.shape == other.pixels.shape and pixels[other.pixels].all())


def instances(margins: Float32, seen: Mask, smallest: float, open_sides: tuple[bool, ...]) -> Iterator[Instance]:
    """Find the craters in a part of a scene.

    Args:
        margins: above 0 in craters, shape (H, W).
        seen: where there are margins, shape (H, W).
        smallest: smallest diameter in pixels.
        open_sides: whether the scene goes on above, below, left and right; areas that reach such a side are left out.
    """
    import cv2

    height, width = margins.shape
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(
        ((margins > 0) & seen).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    for number in range(1, count):
        left, top, columns, rows = (int(value) for value in boxes[number, :4])
        if min(rows, columns) < 0.5 * smallest:
            continue
        reached = (top == 0, top + rows == height, left == 0, left + columns == width)
        if any(at and is_open for at, is_open in zip(reached, open_sides, strict=True)):
            continue
        box = slice(top, top + rows), slice(left, left + columns)
        inside = labels[box] == number
        part = _Part(margins[box], top, left)
        for crater in _craters(part, _area(part, inside, 0.0), smallest, 0):
            instance = _instance(crater, margins, seen)
            if instance is not None and instance.diameter >= smallest:
                yield instance


def _area(part: _Part, inside: Mask, threshold: float) -> _Area:
    """Fill and measure an area that is as large as the part."""
    import cv2

    outer, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros(inside.shape, np.uint8), outer, -1, 1, cv2.FILLED) > 0
    return _Area(filled, part.top, part.left, threshold, float(part.values[inside].max()), _roundness(filled))


def _roundness(pixels: Mask) -> float:
    """Compute the roundness of an area.

    That is the intersection over union of the area and the ellipse of its covariance; 0 if that is too long.
    """
    import cv2

    moments = cv2.moments(pixels.view(np.uint8), binaryImage=True)
    size = moments["m00"]
    if size < 4:
        return 0.0
    # Each pixel is a square.
    xx, yy, xy = moments["mu20"] / size + 1 / 12, moments["mu02"] / size + 1 / 12, moments["mu11"] / size
    middle, half = (xx + yy) / 2, math.hypot((xx - yy) / 2, xy)
    shortest, longest = math.sqrt(max(middle - half, 0)), math.sqrt(middle + half)
    if shortest < _LONG * longest:
        return 0.0
    # A filled ellipse's covariance is a quarter of its squared axes.
    scale = 4 * (xx * yy - xy**2)
    dx = np.arange(pixels.shape[1]) - moments["m10"] / size
    dy = np.arange(pixels.shape[0])[:, None] - moments["m01"] / size
    inside = (yy / scale * dx**2 + xx / scale * dy**2) - (2 * xy / scale * dy) * dx <= 1
    both = np.count_nonzero(inside & pixels)
    ellipse = 4 * math.pi * shortest * longest
    return min(both / (size + ellipse - both), 1.0)


def _craters(part: _Part, area: _Area, smallest: float, step: int, basin: _Area | None = None) -> list[_Area]:
    """Follow an area from threshold to threshold, and list the craters in it.

    Args:
        part: margins around the area.
        area: the area at the threshold of number ``step``.
        smallest: smallest diameter.
        step: number of the threshold above which it is followed.
        basin: the area out to the lowest margins around it, if it parted from another.
    """
    forms: list[_Area] = [area]
    parted: list[tuple[_Area, _Area, int]] = []
    own_part = area.cut(part)
    left = _Part(own_part.values.copy(), area.top, area.left)  # without what has parted
    for number in range(step + 1, len(_THRESHOLDS)):
        if forms[-1].peak <= _THRESHOLDS[number]:
            break
        found = _above(forms[-1].cut(left), _THRESHOLDS[number])
        areas = [one for one in found if one.diameter >= 0.8 * smallest]
        trunk = max(areas, key=lambda one: one.size, default=None)
        if trunk is not None and trunk.size < _TRUNK * forms[-1].size:
            trunk = None
        beside = [one for one in areas if one is not trunk]
        for one in beside:
            if not any(other is not one and other.contains(one) for other in beside):  # or else it is found in that
                parted.append((one, _basin(one, own_part, _THRESHOLDS[step]), number - 1))
            left.values[one.box(area.top, area.left)][one.pixels] = -1
        if trunk is None:
            break
        forms.append(trunk)
    as_round = max(form.roundness for form in forms) - _AS_ROUND - 0.5 / area.diameter
    own = next(form for form in forms if form.roundness >= as_round)
    if own is area and basin is not None and basin.roundness >= as_round:
        own = basin
    others = [
        crater
        for one, around, number in parted
        for crater in _craters(own_part, one, smallest, number, around)
        if crater.roundness >= _ROUND
    ]
    crossing = _crossing(area, smallest) if area.roundness < _CLEARLY_ROUND else []
    if crossing:
        return [*crossing, *(other for other in others if _is_nested(other, crossing))]
    if own.roundness < _CLEARLY_ROUND and not others:
        pieces = _pieces(own, smallest)
        if pieces:
            return pieces
    if own.roundness < (_ROUND if others else _ROUNDISH):
        return others
    return [own, *(other for other in others if _is_separate(other, own))]


def _basin(area: _Area, part: _Part, threshold: float) -> _Area:
    """Grow an area that parted from another to the border between both.

    That runs along the lowest margins.

    Args:
        area: the area, at the first threshold at which it is apart.
        part: margins around both.
        threshold: of an area that both are part of.
    """
    from skimage.segmentation import watershed

    reach = max(round(area.diameter / 2), 4)
    rows, columns = (slice(max(side.start - reach, 0), side.stop + reach) for side in area.box(part.top, part.left))
    values = part.values[rows, columns]
    top, left = part.top + rows.start, part.left + columns.start
    markers = np.where(values > area.threshold, 2, 0)
    markers[area.box(top, left)][area.pixels] = 1
    pixels = watershed(-values, markers, mask=values > threshold) == 1
    above = values[area.box(top, left)][area.pixels]
    stands_out = bool(np.median(above) - area.threshold >= _STANDS_OUT)
    grown = replace(area, top=top, left=left, parted=True, stands_out=stands_out)
    return _tight(grown, pixels)


def _tight(area: _Area, pixels: Mask) -> _Area:
    """Return an area with other pixels of its box, and the box cut to them."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return replace(
        area,
        pixels=pixels[box],
        top=area.top + int(rows[0]),
        left=area.left + int(columns[0]),
        roundness=_roundness(pixels[box]),
    )


def _above(part: _Part, threshold: float) -> list[_Area]:
    """List the areas above a threshold."""
    import cv2

    count, labels, boxes, _ = cv2.connectedComponentsWithStats(
        (part.values > threshold).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S
    )
    areas = []
    for number in range(1, count):
        left, top, columns, rows, size = (int(value) for value in boxes[number])
        if size >= _FEWEST:
            box = slice(top, top + rows), slice(left, left + columns)
            here = _Part(part.values[box], part.top + top, part.left + left)
            areas.append(_area(here, labels[box] == number, threshold))
    return areas


def _is_separate(other: _Area, own: _Area) -> bool:
    """Test whether what parted from a crater is a crater itself.

    It is if it lies beside it, or in it, smaller and standing out.
    """
    rows, columns = own.pixels.shape
    y, x = (int(side.mean()) for side in np.nonzero(other.pixels))
    y, x = y + other.top - own.top, x + other.left - own.left
    if not (0 <= y < rows and 0 <= x < columns and own.pixels[y, x]):
        return True
    return other.stands_out and other.diameter <= _NESTED * own.diameter


def _pieces(area: _Area, smallest: float) -> list[_Area]:
    """Part craters that touch where their area is narrow.

    Empty if it does not part into round ones.
    """
    import cv2
    from skimage.segmentation import watershed

    distance = cv2.distanceTransform(np.pad(area.pixels, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = distance[1:-1, 1:-1]
    side = max(round(smallest / 2), 3)
    highest = (distance == cv2.dilate(distance, np.ones((side, side), np.uint8))) & area.pixels
    count, markers = cv2.connectedComponents(highest.astype(np.uint8))
    if count < 3:  # the ground, and one piece
        return []
    labels = _without_wide_necks(watershed(-distance, markers, mask=area.pixels), distance)
    numbers = np.unique(labels[labels > 0])
    if len(numbers) < 2:
        return []
    pieces = [replace(_tight(area, labels == number), parted=True) for number in numbers]
    if any(piece.roundness < _ROUND for piece in pieces if piece.diameter >= smallest):
        return []
    return [piece for piece in pieces if piece.diameter >= 0.8 * smallest and piece.roundness >= _ROUNDISH]


def _is_made_of(area: _Area, parts: list[_Area]) -> bool:
    """Test whether parts fill an area, and nothing else."""
    filled = np.zeros(area.pixels.shape, bool)
    beyond = 0
    for part in parts:
        pixels = _shown_in(area, part)
        filled |= pixels
        beyond += part.size - int(np.count_nonzero(pixels))
    both = np.count_nonzero(filled & area.pixels)
    return bool(both >= _EXPLAINED * (area.size + np.count_nonzero(filled & ~area.pixels) + beyond))


def _shown_in(area: _Area, other: _Area) -> Mask:
    """Return what the box of an area shows of another one."""
    shown = np.zeros(area.pixels.shape, bool)
    box = other.box(area.top, area.left)
    clipped = tuple(slice(max(side.start, 0), max(side.stop, 0)) for side in box)
    target = shown[clipped]
    first = [at.start - side.start for at, side in zip(clipped, box, strict=True)]
    target[:] = other.pixels[first[0] : first[0] + target.shape[0], first[1] : first[1] + target.shape[1]]
    return shown


def _is_nested(other: _Area, crossing: list[_Area]) -> bool:
    """Test whether an area is a crater in one of the craters that cross.

    It is none where two of them overlap.
    """
    y, x = (float(side.mean()) for side in np.nonzero(other.pixels))
    centre = np.array([x + other.left + 0.5, y + other.top + 0.5])
    around = [one for one in crossing if one.arcs and math.dist(centre, one.arcs.centre) < one.arcs.radius]
    return len(around) == 1 and _is_separate(other, around[0])


def _crossing(area: _Area, smallest: float) -> list[_Area]:
    """Tell craters apart whose rims cross.

    The arcs between the corners of their outline lie on circles.

    Empty if the area is not made of at least two circles.
    """
    outline = _between_pixels(area)
    arcs = _arcs(outline)
    if not 2 <= len(arcs) <= _MOST_ARCS:
        return []
    circles = []
    for points in _joined(arcs):
        fitted = _fitted_circle(points)
        if fitted is not None and 2 * fitted.radius >= smallest and _directions(points - fitted.centre) >= _LEAST_SEEN:
            disc = _disc(area, fitted)
            if disc.roundness >= _ROUNDISH:
                circles.append(disc)
    if len(circles) < 2 or any(_is_duplicate(one, other) for one, other in combinations(circles, 2)):
        return []
    return circles if _is_made_of(area, circles) else []


def _between_pixels(area: _Area) -> Float64:
    """Trace an area's outline between the pixels.

    Its shape is (n, 2), x and y; the first point is not repeated.
    """
    from skimage.measure import find_contours

    contour = max(find_contours(np.pad(area.pixels, 1).astype(np.float64), 0.5), key=len)[:-1]
    return np.column_stack([contour[:, 1] + area.left - 0.5, contour[:, 0] + area.top - 0.5])


def _arcs(outline: Float64) -> list[Float64]:
    """Part an outline at its corners, where it turns to the other side."""
    import cv2

    tolerance = max(_CORNER * math.sqrt(_polygon_moments(*np.vstack([outline, outline[:1]]).T)[0]), 1.0)
    corners = cv2.approxPolyDP(outline.astype(np.float32)[:, None], tolerance, closed=True)[:, 0]
    if len(corners) < 4:
        return []
    before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    inwards = corners[turns * np.sign(turns.sum()) < 0]
    if len(inwards) > _MOST_ARCS:
        return []
    places = sorted(int(np.argmin(((outline - corner) ** 2).sum(axis=1))) for corner in inwards)
    turned = np.roll(outline, -places[0], axis=0) if places else outline
    bounds = [*(place - places[0] for place in places), len(outline)]
    return [turned[start + 1 : end] for start, end in pairwise(bounds) if end - start > _FEWEST]


def _joined(arcs: list[Float64]) -> list[Float64]:
    """Join arcs that lie on one circle, those first that do best."""
    arcs = list(arcs)
    while len(arcs) > 1:
        pairs = list(combinations(range(len(arcs)), 2))
        off = [_off_circle(np.vstack([arcs[one], arcs[other]])) for one, other in pairs]
        best = int(np.argmin(off))
        if off[best] > 1:
            break
        one, other = pairs[best]
        arcs[one] = np.vstack([arcs[one], arcs.pop(other)])
    return arcs


def _off_circle(points: Float64) -> float:
    """Compute how far points are off their circle, as a share of what is tolerated."""
    circle = _circle(points)
    if circle is None:
        return math.inf
    centre, radius = circle
    off = np.hypot(*(points - centre).T) - radius
    return float(np.sqrt((off**2).mean())) / max(_OFF_ARC * radius, 0.5)


def _fitted_circle(points: Float64) -> _Arcs | None:
    """Fit a circle to an arc; None if it is none."""
    circle = _circle(points)
    return None if circle is None or _off_circle(points) > 1 else _Arcs(*circle, points)


def _disc(area: _Area, arcs: _Arcs) -> _Area:
    """Return the crater of an area that has these arcs."""
    (x, y), radius = arcs.centre.tolist(), arcs.radius
    top, left = math.floor(y - radius), math.floor(x - radius)
    rows, columns = math.ceil(y + radius) - top, math.ceil(x + radius) - left
    dy, dx = np.arange(rows)[:, None] + top + 0.5 - y, np.arange(columns) + left + 0.5 - x
    pixels = dx**2 + dy**2 <= radius**2
    shown = _shown_in(area, _Area(pixels, top, left, 0, 0, 0)) & area.pixels
    seen = int(np.count_nonzero(shown)) / max(int(np.count_nonzero(pixels)), 1)
    return replace(area, pixels=pixels, top=top, left=left, roundness=seen, parted=True, arcs=arcs)


def _is_duplicate(one: _Area, other: _Area) -> bool:
    """Test whether two circles are one crater."""
    assert one.arcs is not None
    assert other.arcs is not None
    apart = math.dist(one.arcs.centre, other.arcs.centre)
    radii = one.arcs.radius, other.arcs.radius
    return apart < 0.3 * max(radii) and min(radii) > 0.7 * max(radii)


def _without_wide_necks(labels: npt.NDArray[np.int32], distance: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Join neighbours whose neck is hardly narrower than the narrower one."""
    if labels.max() < 2:
        return labels
    peaks = np.zeros(labels.max() + 1, np.float32)
    np.maximum.at(peaks, labels, distance)
    necks: dict[tuple[int, int], float] = {}
    for one, other in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        border = (labels[one] != labels[other]) & (labels[one] > 0) & (labels[other] > 0)
        width = np.minimum(distance[one], distance[other])[border]
        for a, b, at in zip(labels[one][border].tolist(), labels[other][border].tolist(), width.tolist(), strict=True):
            pair = (min(a, b), max(a, b))
            necks[pair] = max(necks.get(pair, 0.0), at)
    becomes = np.arange(len(peaks), dtype=np.int32)
    for (a, b), width in sorted(necks.items(), key=lambda item: -item[1]):
        if becomes[a] != becomes[b] and width > _NARROW * min(peaks[becomes[a]], peaks[becomes[b]]):
            keeps, goes = sorted((becomes[a], becomes[b]), key=lambda number: -peaks[number])
            becomes[becomes == goes] = keeps
    return becomes[labels]


def _instance(area: _Area, margins: Float32, seen: Mask) -> Instance | None:
    """Measure a crater along its outline; None if too little of that was seen."""
    if area.arcs is not None:
        return _from_arcs(area, area.arcs)
    outline, cut_at = _outline(area, margins, seen)
    if outline is None:
        return None
    x, y = outline.T
    cut = bool(cut_at.mean() >= _CUT)
    if cut:
        circle = _circle(outline[~cut_at])
        if circle is None:
            return None
        centre, radius = circle
        spread = np.eye(2) * radius**2 / 4
        if _directions(outline[~cut_at] - centre) < _LEAST_ARC:
            return None
        whole = _round(centre, radius)
        coverage = _coverage(outline[~cut_at], centre, spread)
        x0, y0 = centre.tolist()
        return Instance(whole, x0, y0, 2 * radius, spread, area.roundness, coverage, area.peak, cut=True)
    size, centre, spread = _polygon_moments(x, y)
    if size <= 0:
        return None
    diameter = float(2 * np.sqrt(size / np.pi))
    coverage = _coverage(outline, centre, spread)
    x0, y0 = centre.tolist()
    if len(outline) > _POINTS + 1:
        outline = outline[np.linspace(0, len(outline) - 1, _POINTS + 1).round().astype(int)]
    return Instance(outline, x0, y0, diameter, spread, area.roundness, coverage, area.peak)


def _from_arcs(area: _Area, arcs: _Arcs) -> Instance:
    """Measure a crater that crosses others."""
    x, y = arcs.centre.tolist()
    coverage = _directions(arcs.points - arcs.centre)
    spread = np.eye(2) * arcs.radius**2 / 4
    outline = _round(arcs.centre, arcs.radius)
    return Instance(outline, x, y, 2 * arcs.radius, spread, area.roundness, coverage, area.peak)


def _round(centre: Float64, radius: float) -> Float64:
    """Return the outline of a disc."""
    angles = np.linspace(0, 2 * np.pi, 65)
    return np.column_stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)])


def _outline(area: _Area, margins: Float32, seen: Mask) -> tuple[Float64 | None, Mask]:
    """Trace the outline of an area between pixels.

    Tell also which of its points lie along what was not seen.
    """
    from scipy.ndimage import binary_dilation
    from skimage.measure import find_contours

    rows, columns = area.pixels.shape
    box = tuple(
        slice(max(start - 1, 0), min(start + length + 1, side))
        for start, length, side in zip((area.top, area.left), (rows, columns), margins.shape, strict=True)
    )
    # Where the image ends, nothing was seen.
    shape, first = (rows + 2, columns + 2), (box[0].start - area.top + 1, box[1].start - area.left + 1)
    inside = tuple(slice(at, at + side.stop - side.start) for at, side in zip(first, box, strict=True))
    values, visible, pixels = np.full(shape, -1.0), np.zeros(shape, bool), np.zeros(shape, bool)
    values[inside], visible[inside], pixels[1:-1, 1:-1] = margins[box], seen[box], area.pixels
    hidden = ~visible & ~pixels
    # The area's own margins, even in its holes, and below the threshold around it.
    values = np.where(pixels, np.maximum(values, area.threshold + 1e-3), np.minimum(values, area.threshold - 1e-3))
    values[hidden] = area.threshold - 1
    if area.parted:
        values = np.where(pixels, area.threshold + 1, area.threshold - 1)
    contours = find_contours(values, area.threshold)
    if not contours:
        return None, np.empty(0, bool)
    contour = max(contours, key=len)
    near = binary_dilation(hidden, np.ones((3, 3), bool)) & ~pixels if hidden.any() else hidden
    at = np.rint(contour[:-1]).astype(int)
    outside = near[np.floor(contour[:-1, 0]).astype(int), np.floor(contour[:-1, 1]).astype(int)]
    outside |= near[np.ceil(contour[:-1, 0]).astype(int), np.ceil(contour[:-1, 1]).astype(int)]
    outside |= near[at[:, 0], at[:, 1]]
    # From pixel centres in the padded box to corners of the image's pixels.
    points = np.column_stack([contour[:, 1] + area.left - 0.5, contour[:, 0] + area.top - 0.5])
    return points, np.append(outside, outside[:1])


def _circle(points: Float64) -> tuple[Float64, float] | None:
    """Fit a circle to points; None if they lie on a line."""
    if len(points) < 3:
        return None
    x, y = (points - points.mean(axis=0)).T
    matrix = np.column_stack([x, y, np.ones(len(x))])
    solution, _, rank, _ = np.linalg.lstsq(matrix, x**2 + y**2, rcond=None)
    square = solution[2] + (solution[0] ** 2 + solution[1] ** 2) / 4
    if rank < 3 or square <= 0:
        return None
    return np.asarray(points.mean(axis=0) + solution[:2] / 2), float(np.sqrt(square))


def _polygon_moments(x: Float64, y: Float64) -> tuple[float, Float64, Float64]:
    """Compute area, centroid and covariance of a closed polygon, by Green's theorem."""
    x0, y0 = float(x.mean()), float(y.mean())
    u, v = x - x0, y - y0
    cross = u[:-1] * v[1:] - u[1:] * v[:-1]
    signed = cross.sum() / 2
    if signed == 0:
        return 0.0, np.zeros(2), np.eye(2)
    mx = ((u[:-1] + u[1:]) * cross).sum() / (6 * signed)
    my = ((v[:-1] + v[1:]) * cross).sum() / (6 * signed)
    xx = ((u[:-1] ** 2 + u[:-1] * u[1:] + u[1:] ** 2) * cross).sum() / (12 * signed) - mx**2
    yy = ((v[:-1] ** 2 + v[:-1] * v[1:] + v[1:] ** 2) * cross).sum() / (12 * signed) - my**2
    xy = ((u[:-1] * v[1:] + 2 * u[:-1] * v[:-1] + 2 * u[1:] * v[1:] + u[1:] * v[:-1]) * cross).sum() / (
        24 * signed
    ) - mx * my
    return abs(float(signed)), np.array([x0 + mx, y0 + my]), np.array([[xx, xy], [xy, yy]])


def _coverage(outline: Float64, centre: Float64, spread: Float64) -> float:
    """Compute the share of the directions in which an outline follows its ellipse."""
    along = np.linspace(0, len(outline) - 1, 4 * _DIRECTIONS)
    places = np.arange(len(outline))
    from_centre = np.column_stack([np.interp(along, places, values) for values in outline.T]) - centre
    radius = np.sqrt(np.einsum("ni,ij,nj->n", from_centre, np.linalg.inv(4 * spread), from_centre))
    return _directions(from_centre[np.abs(radius - 1) <= _OFF])


def _directions(points: Float64) -> float:
    """Compute the share of the directions in which there are points."""
    direction = np.floor(np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) * _DIRECTIONS).astype(int)
    return len(np.unique(direction % _DIRECTIONS)) / _DIRECTIONS
