"""Shifts between scenes that overlap, found from the craters that both show.

Products of the same ground are placed with errors of tens to some hundred metres relative to each other, many diameters
of a small crater. Every pair of craters of similar size that may be the same one votes for the vector between them. The
vectors of the same craters agree, and those of different ones lie anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mars_assets.craters.comparison import Circles
from mars_assets.craters.merging import disagreement, near_pairs

Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]

REACH = 500.0
"""Largest shift in metres, to the east or north."""
_MOST = 500
"""Craters of a scene that vote, the largest."""
_SIMILAR = 0.35
"""Largest difference of ln D of two that vote."""
_WINDOWS = (0.2, 0.4, 0.8)
"""Width of the windows in which votes are counted, in median diameters."""
_NARROWEST, _WIDEST = 1.0, 125.0
"""Of these windows, in metres."""
_AROUND, _CORE = (9, 25), 3
"""Widths of the squares that tell how many votes are expected, and of the one left out in their middle, in windows."""
_FEW = 5
"""Votes in such a square that tell nothing if there are fewer."""
_CANDIDATES = 3
"""Windows of each grid of them that are tested, those of the most votes."""
_LEAST, _EXCESS = 4, 4.0
"""Votes of a shift: their number, and how many times as many as expected."""
_CHANCE = 1e-6
"""Largest probability of as many votes in any window if the craters have nothing to do with each other."""
_ROUNDS = 3


class Shift(NamedTuple):
    """Where a scene's craters lie relative to another's.

    Args:
        east: in metres.
        north: in metres.
        vector: the same in space, shape (3,).
        votes: pairs of craters in the window of the most votes.
        expected: their number if the scenes had no craters in common.
    """

    east: float
    north: float
    vector: Float64
    votes: int
    expected: float


def same_craters(one: Circles, other: Circles) -> tuple[Index, Index, Float64]:
    """List pairs of circles that may be of one crater, and how much they differ.

    The rule is that of :func:`mars_assets.craters.merging.merge`.
    """
    count = len(one.diameter)
    first, second = near_pairs(
        np.concatenate([one.centres, other.centres]), np.concatenate([one.diameter, other.diameter])
    )
    first, second = np.minimum(first, second), np.maximum(first, second)
    across = (first < count) & (second >= count)
    first, second = first[across], second[across] - count
    apart = np.linalg.norm(one.centres[first] - other.centres[second], axis=1)
    differs = disagreement(apart, one.diameter[first], other.diameter[second])
    same = differs < 1
    return first[same], second[same], differs[same]


def relative_shift(one: Circles, other: Circles) -> Shift | None:
    """Estimate where craters lie relative to those of another scene.

    The vectors between craters of similar size are counted in windows. The shift is the middle of the window whose
    number is the least probable by chance, by Poisson's distribution with the mean of the windows around it: near ones
    or in a wider square, whichever has more. It counts
    if any of all windows would have so many with a probability of at most ``_CHANCE``, and if there are clearly more
    than that mean. Then it is refined to the median over the craters that it matches.

    Args:
        one: on the sphere, in metres.
        other: likewise.

    Returns:
        How to get from one to the other; None without a shift that is significant.
    """
    one, other = _that_vote(one, other), _that_vote(other, one)
    if min(len(one.diameter), len(other.diameter)) < _LEAST:
        return None
    frame = _east_and_north(np.concatenate([one.centres, other.centres]).mean(axis=0))
    vectors, size = _votes(one, other, frame)
    if len(vectors) < _LEAST:
        return None
    widths = np.unique(np.clip(np.array(_WINDOWS) * size, _NARROWEST, _WIDEST)).tolist()
    tested = [peak for width in widths for peak in _peaks(vectors, width)]
    number = sum((2 * (2 * REACH / width)) ** 2 for width in widths)
    best = min(tested, key=lambda peak: peak.chance)
    clear = best.votes >= max(_LEAST, _EXCESS * best.expected)
    if not clear or best.chance + np.log(number) > np.log(_CHANCE):
        return None
    centre = best.centre
    for _ in range(_ROUNDS):
        inside = np.abs(vectors - centre).max(axis=1) <= best.width
        centre = np.median(vectors[inside], axis=0)
    first, second, _ = same_craters(one, Circles(other.centres - centre @ frame, other.diameter))
    if len(first):
        centre = np.median((other.centres[second] - one.centres[first]) @ frame.T, axis=0)
    return Shift(float(centre[0]), float(centre[1]), centre @ frame, best.votes, best.expected)


def _that_vote(one: Circles, other: Circles) -> Circles:
    """Select the largest craters that have one of the other scene within reach."""
    from scipy.spatial import cKDTree

    if not len(one.diameter) or not len(other.diameter):
        return Circles(one.centres[:0], one.diameter[:0])
    distance, _ = cKDTree(other.centres).query(one.centres, distance_upper_bound=REACH)
    near = np.flatnonzero(np.isfinite(distance))
    chosen = near[np.argsort(-one.diameter[near], kind="stable")[:_MOST]]
    return Circles(one.centres[chosen], one.diameter[chosen])


def _east_and_north(centre: Float64) -> Float64:
    """Compute both directions in a place, shape (2, 3)."""
    east = np.array([-centre[1], centre[0], 0.0])
    length = np.linalg.norm(east)
    east = east / length if length > 0 else np.array([0.0, 1.0, 0.0])
    return np.stack([east, np.cross(centre / np.linalg.norm(centre), east)])


def _votes(one: Circles, other: Circles, frame: Float64) -> tuple[Float64, float]:
    """Compute vectors between craters of similar size, and their median size."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(one.centres).sparse_distance_matrix(
        cKDTree(other.centres), np.sqrt(2) * REACH, output_type="ndarray"
    )
    first, second = pairs["i"], pairs["j"]
    similar = np.abs(np.log(one.diameter[first] / other.diameter[second])) < _SIMILAR
    first, second = first[similar], second[similar]
    vectors = (other.centres[second] - one.centres[first]) @ frame.T
    size = float(np.median(one.diameter[first])) if len(first) else 0.0
    return vectors, size


class _Peak(NamedTuple):
    """A window of many votes.

    Args:
        chance: logarithm of a probability that is at least that of so many votes.
    """

    chance: float
    centre: Float64
    width: float
    votes: int
    expected: float


def _peaks(vectors: Float64, width: float) -> list[_Peak]:
    """Find the windows of the most votes, which overlap by half."""
    inside = vectors[(np.abs(vectors) <= REACH).all(axis=1)]
    overall = len(inside) * (width / (2 * REACH)) ** 2
    row = int(2 * REACH / width) + 3  # one more than the columns that windows can have
    peaks = []
    for start in np.array([(0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)]):
        columns = np.floor((inside + REACH) / width + start).astype(int)
        cells, counts = np.unique(columns @ [row, 1], return_counts=True)
        for most in np.argsort(-counts, kind="stable")[:_CANDIDATES].tolist():
            centre = (np.array(divmod(cells[most], row)) + 0.5 - start) * width - REACH
            off = np.abs(vectors - centre).max(axis=1) / (width / 2)
            expected = max(overall, *(_per_window(off, side) for side in _AROUND))
            votes = int(counts[most])
            # Chernoff's bound.
            chance = votes - expected - votes * np.log(votes / expected) if votes > expected else 0.0
            peaks.append(_Peak(float(chance), centre, width, votes, expected))
    return peaks


def _per_window(off: Float64, side: int) -> float:
    """Compute the mean number of votes in the windows of a square.

    Those in its middle do not count. 0 if there are too few to tell.

    Args:
        off: distances of all votes from the middle along an axis, in half windows.
        side: of the square, in windows.
    """
    votes = int(((off < side) & (off >= _CORE)).sum())
    return votes / (side**2 - _CORE**2) if votes >= _FEW else 0.0
