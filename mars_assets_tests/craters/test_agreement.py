"""Lists of craters against themselves with known errors, and against independent computations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.metrics import brier_score_loss, precision_recall_curve

from mars_assets.craters.agreement import FALSE, FOUND, MISSED, Agreement, average_precision, compare_lists
from mars_assets.craters.catalogues.columns import About
from mars_assets.craters.catalogues.crater_list import DEGREES, Area, Counted, CraterList, crater_table
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.errors import MarsError

pytestmark = pytest.mark.slow

R = 3_396_190.0
LABELS = About.model_validate(
    {
        "columns": {"annotator": "by", "image": "tile"},
        "boxes": {name: name for name in ("xmin", "ymin", "xmax", "ymax")},
        "reference": "expert",
        "smallest": 10,
    }
)


def listed(name: str, columns: dict[str, Any], *counted: Counted, **options: Any) -> CraterList:
    count = len(next(iter(columns.values())))
    return CraterList(name, crater_table(columns, count), counted or (Counted(),), **options)


def in_pixels(name: str, rows: Any, *counted: Counted, **columns: Any) -> CraterList:
    x, y, diameter = np.asarray(rows, float).reshape(-1, 3).T
    return listed(name, {"x_px": x, "y_px": y, "diameter_px": diameter, **columns}, *counted)


def on_ground(name: str, rows: Any, *counted: Counted, **columns: Any) -> CraterList:
    longitude, latitude, diameter = np.asarray(rows, float).reshape(-1, 3).T
    return listed(name, {"longitude": longitude, "latitude": latitude, "diameter_m": diameter, **columns}, *counted)


@dataclass(frozen=True)
class Errors:
    """What is done to a list, in metres or pixels where it is no share."""

    missed: float = 0.2
    false: float = 0.15
    ln_d: float = 0.04
    ln_d_sd: float = 0.05
    east: float = 60.0
    north: float = -40.0
    spread: float = 30.0


def turned(centre: tuple[Any, Any], east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """Places at distances in metres east and north of a centre, along the sphere."""
    distance, towards = np.hypot(east, north) / R, np.arctan2(east, north)
    latitude = np.radians(centre[1])
    sines = np.sin(latitude) * np.cos(distance) + np.cos(latitude) * np.sin(distance) * np.cos(towards)
    turn = np.arctan2(
        np.sin(towards) * np.sin(distance) * np.cos(latitude), np.cos(distance) - np.sin(latitude) * sines
    )
    return np.column_stack([(centre[0] + np.degrees(turn)) % 360, np.degrees(np.arcsin(np.clip(sines, -1, 1)))])


def perturbed(seed: int, errors: Errors, centre: tuple[float, float] | None) -> tuple[CraterList, CraterList]:
    """A list and itself with errors, on the ground around a centre or in pixels."""
    rng = np.random.default_rng(seed)
    count, false = 3000, 500
    wide = 4e5

    def drawn(number: int) -> tuple[np.ndarray, np.ndarray]:
        flat = rng.uniform(-wide, wide, (number, 2))
        return flat, 800 * rng.uniform(0.02, 1, number) ** (-1 / 2)

    flat, diameter = drawn(count)
    shift = np.array([errors.east, errors.north]) + rng.normal(0, errors.spread, (count, 2))
    places = flat if centre is None else turned(centre, *flat.T)
    moved = flat + shift * [1, -1] if centre is None else turned((places[:, 0], places[:, 1]), *shift.T)
    larger = diameter * np.exp(rng.normal(errors.ln_d, errors.ln_d_sd, count))
    kept = rng.random(count) >= errors.missed
    flat, sizes = drawn(round(errors.false * kept.sum() / (1 - errors.false)) if errors.false else false)
    spurious = flat if centre is None else turned(centre, *flat.T)
    true = np.column_stack([places, diameter])
    said = np.concatenate([np.column_stack([moved, larger])[kept], np.column_stack([spurious, sizes])])
    build = in_pixels if centre is None else on_ground
    limit = Counted(smallest_m=1000, smallest_px=1000)
    return build("ours", said, limit), build("theirs", true, limit)


@pytest.mark.parametrize("centre", [(0.0, 20.0), (180.0, -35.0), (75.0, 89.0), (10.0, -89.9), None])
def test_known_errors_come_back_within_their_intervals(centre: tuple[float, float] | None) -> None:
    errors, inside, tested = Errors(), 0, 0
    for seed in range(4):
        row = compare_lists(*perturbed(seed, errors, centre)).row("all")
        expected = {"recall": 1 - errors.missed, "precision": 1 - errors.false, "ln_d": errors.ln_d}
        expected |= {"ln_d_sd": errors.ln_d_sd, "east": errors.east, "north": errors.north}
        expected |= {"east_sd": errors.spread, "north_sd": errors.spread}
        expected["f1"] = 2 / (1 / expected["recall"] + 1 / expected["precision"])
        for name, value in expected.items():
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            assert low < row[name] < high
            middle, half = (low + high) / 2, (high - low) / 2
            assert abs(value - middle) < 2.5 * half, (name, seed, value, low, high)
            assert half < {"east": 4, "north": 4, "east_sd": 3, "north_sd": 3}.get(name, 0.03), "too wide to tell"
            inside += low <= value <= high
            tested += 1
    assert inside / tested > 0.85, "of intervals that are to cover 95 %"


def test_a_list_agrees_with_itself() -> None:
    ours, theirs = perturbed(3, Errors(0, 0, 0, 0, 0, 0, 0), (0.0, 0.0))
    result = compare_lists(theirs, theirs)
    row = result.row("all")
    assert (row["precision"], row["recall"], row["f1"], row["ln_d"], row["east"], row["off"]) == (1, 1, 1, 0, 0, 0)
    assert row["recall_low"] > 0.99
    assert set(result.matches["kind"]) == {FOUND}
    assert ours.has_ground


@pytest.mark.parametrize("levels", [0, 20])
def test_average_precision_is_that_of_scikit_learn(levels: int) -> None:
    """Precision made monotone by hand, also where probabilities are equal."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        true = np.column_stack([np.arange(200) * 100, np.zeros(200), np.full(200, 20)])
        found = rng.random(200) < 0.6
        said = np.concatenate([true[found], true[:70] + np.array([0, 1000, 0])])
        right = np.arange(len(said)) < found.sum()
        probability = np.clip(rng.normal(0.4 + 0.2 * right, 0.2), 0, 1)
        probability = np.round(probability * levels) / levels if levels else probability
        row = compare_lists(in_pixels("ours", said, probability=probability), in_pixels("theirs", true)).row("all")
        precision, recall, _ = precision_recall_curve(right, probability)
        highest = np.maximum.accumulate(precision)
        expected = -np.sum(np.diff(recall) * highest[:-1]) * found.mean()
        assert row["average_precision"] == pytest.approx(expected, abs=1e-12)
        assert row["average_precision_low"] < expected < row["average_precision_high"]
        assert row["brier"] == pytest.approx(brier_score_loss(right, probability), abs=1e-12)


def test_average_precision_by_hand() -> None:
    found, false = np.array([1.0, 0, 1, 1]), np.array([0.0, 1, 0, 2])
    # Precision 1, 1/2, 2/3, 3/6, and the highest to the right.
    assert average_precision(found, false, np.array(4.0)) == pytest.approx((1 + 2 / 3 + 1 / 2) / 4)
    assert np.isnan(average_precision(found * 0, false, np.array(0.0)))


def test_reliability_has_its_share_in_each_bin() -> None:
    true = [[100 * n, 0, 20] for n in range(10)]
    said = true[:5] + [[100 * n, 900, 20] for n in range(5)]
    probability = [0.95, 1.0, 0.91, 0.42, 0.41, 0.99, 0.43, 0.44, 0.0, 0.05]
    result = compare_lists(in_pixels("ours", said, probability=probability), in_pixels("theirs", true))
    rows = result.rows[result.rows["group"] == "probability"].set_index("value")
    assert rows["ours"].to_dict() == {"0": 2, "0.4": 4, "0.9": 4}
    assert rows["precision"].to_dict() == {"0": 0, "0.4": 0.5, "0.9": 0.75}
    assert rows["probability"].tolist() == pytest.approx([0.025, 0.425, 0.9625])


def test_a_crater_next_to_a_limit_is_neither_missed_nor_false() -> None:
    ours = in_pixels("ours", [[0, 0, 9.5], [100, 0, 10.5], [200, 0, 12]], Counted(smallest_px=10))
    theirs = in_pixels("theirs", [[0, 0, 10.5], [100, 0, 9.5], [300, 0, 9]], Counted(smallest_px=8))
    result = compare_lists(ours, theirs)
    assert result.smallest == 10
    assert result.matches[["kind", "x_px"]].to_numpy().tolist() == [[FOUND, 0], [FALSE, 200]]


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_crater_next_to_the_areas_border_is_neither_missed_nor_false(side: str) -> None:
    """Its true place decides, whoever looked there."""
    area = Counted(Area(shapely.box(0, 0, 100, 100), None))
    said = [[101, 50, 20], [99, 80, 20], [150, 50, 20], [50, 50, 20]]
    true = [[99, 50, 20], [101, 80, 20], [150, 90, 20], [20, 20, 20]]
    ours = in_pixels("ours", said, *[area] * (side == "ours"))
    theirs = in_pixels("theirs", true, *[area] * (side == "theirs"))
    matches = compare_lists(ours, theirs).matches
    assert matches[["kind", "x_px", "y_px"]].to_numpy().tolist() == [
        [FOUND, 99, 50],
        [MISSED, 20, 20],
        [FALSE, 50, 50],
    ]


def test_ground_that_lists_other_sizes_counts_by_its_own() -> None:
    """As of scenes of other resolution: the small crater on the coarse one is not missed."""
    fine, coarse = (Area(shapely.box(left, 0, left + 1, 1), DEGREES) for left in (0, 1))
    ours = on_ground("ours", [[0.5, 0.5, 100]], Counted(fine, smallest_m=50), Counted(coarse, smallest_m=500))
    theirs = on_ground("theirs", [[0.2, 0.2, 100], [1.5, 0.5, 100], [1.2, 0.2, 600], [0.5, 0.5, 40]])
    result = compare_lists(ours, theirs)
    assert sorted(result.matches.loc[result.matches["kind"] == MISSED, "diameter_m"]) == [100, 600]
    assert result.smallest == 50


def test_scores_by_size_latitude_and_terrain() -> None:
    places = [[10, -45, 1000], [20, -10, 1000], [30, 10, 3000], [40, 70, 3000]]
    theirs = on_ground("theirs", places, terrain=["plain", "plain", "rough", ""])
    result = compare_lists(on_ground("ours", [*places[:3], [50, 50, 1000]]), theirs)
    rows = result.rows.set_index(["group", "value"])
    assert rows.loc["diameter", "recall"].to_dict() == {"1000": 1, "2828.43": 0.5}
    assert rows.loc["diameter", "precision"].to_dict() == {"1000": pytest.approx(2 / 3), "2828.43": 1}
    assert rows.loc["latitude", "theirs"].to_dict() == {"-60": 1, "-30": 1, "0": 1, "30": 0, "60": 1}
    assert rows.loc["terrain", "recall"].to_dict() == {"plain": 1, "rough": 1}
    assert rows.loc["terrain", "precision"].isna().all(), "the terrain of false craters is not known"


def test_blocks_are_the_same_for_the_same_craters() -> None:
    first, second = (compare_lists(*perturbed(1, Errors(), (0.0, 20.0))) for _ in range(2))
    pd.testing.assert_frame_equal(first.rows, second.rows)
    assert first.resampled == "blocks of ground"


def test_intervals_cover_clusters() -> None:
    """Craters missed in whole regions make a wider interval than Wilson's, which takes them for independent."""
    rng = np.random.default_rng(0)
    true = np.column_stack([rng.uniform(0, 8000, (3000, 2)), np.full(3000, 10)])
    seen = rng.random((4, 4)) < 0.5
    said = true[seen[tuple((true[:, :2] // 2000).astype(int).T)]]
    row = compare_lists(in_pixels("ours", said), in_pixels("theirs", true)).row("all")
    recall = row["recall"]
    by_blocks = row["f1_high"] - row["f1_low"]
    independent = 2 * 1.96 * np.sqrt(recall * (1 - recall) / 3000)
    assert by_blocks > 4 * independent


@pytest.fixture
def labels(shared: Path) -> Path:
    return shared / "data/scenes/ctx_multi_annotator/labels.csv"


def test_annotators_score_as_in_the_reference(labels: Path) -> None:
    expected = {
        "D": (37, [0.68, 0.74, 0.78, 0.80, 0.82, 0.86]),
        "K": (35, [0.64, 0.70, 0.71, 0.84, 0.84, 0.89]),
        "L": (320, [0.41, 0.68, 0.72, 0.74, 0.81, 0.88]),
    }
    theirs = read_craters(labels, LABELS)
    rows = people(compare_lists(theirs, theirs))
    for tile, (count, scores) in expected.items():
        by_expert = rows[(rows["against"] == "expert") & (rows["image"] == f"MC11E-{tile}")]
        assert set(by_expert["theirs"]) == {count}
        assert sorted(by_expert["f1"].round(2)) == scores


def people(result: Agreement) -> pd.DataFrame:
    rows = result.rows[result.rows["group"] == "annotator"]
    return rows[rows["value"].str.startswith("annotator")]


def test_annotators_are_also_judged_by_each_other(labels: Path) -> None:
    theirs = read_craters(labels, LABELS.model_copy(update={"image": "MC11E-K"}))
    rows = people(compare_lists(theirs, theirs)).set_index(["value", "against"])
    assert len(rows) == 6 * 7, "six people by the expert, by all of them together, and by five others"
    one, other = "annotator LM3588", "annotator gd5jc6"
    assert rows.loc[(one, other), "found"] == pytest.approx(rows.loc[(other, one), "found"], abs=2)


def test_images_are_matched_one_by_one(labels: Path) -> None:
    theirs = read_craters(labels, LABELS)
    result = compare_lists(theirs, theirs)
    assert result.row("all")["f1"] == 1
    assert set(result.rows.loc[result.rows["group"] == "image", "value"]) == {"MC11E-D", "MC11E-K", "MC11E-L"}


def test_lists_that_cannot_be_compared_say_why() -> None:
    ground, pixels = on_ground("maps", [[0, 0, 100]]), in_pixels("people", [[0, 0, 100]])
    with pytest.raises(MarsError, match="maps has places and sizes on the ground and people in pixels: compare"):
        compare_lists(ground, pixels)
    several = in_pixels("people", [[0, 0, 100], [0, 0, 100]], image=["K", "L"])
    with pytest.raises(MarsError, match="in the pixels of K, L, and maps of one image: write image: and the one"):
        compare_lists(in_pixels("maps", [[0, 0, 100]]), several)
    with pytest.raises(MarsError, match="and maps of M: write image"):
        compare_lists(in_pixels("maps", [[0, 0, 100]], image=["M"]), several)


def test_nothing_in_common_is_said() -> None:
    area = Counted(Area(shapely.box(0, 0, 1, 1), DEGREES))
    result = compare_lists(on_ground("maps", [[0.5, 0.5, 100]], area), on_ground("theirs", [[50, 50, 1000]]))
    assert result.matches.empty or set(result.matches["kind"]) == {FALSE}
    far = compare_lists(on_ground("maps", [[50, 5, 100]], area), on_ground("theirs", [[50, 50, 1000]]))
    assert far.matches.empty
    assert any("no crater of either list" in note for note in far.notes)
    assert np.isnan(far.row("all")["recall"])
    assert far.rows["group"].tolist() == ["all", "all"]


def test_what_is_taken_for_granted_is_said() -> None:
    result = compare_lists(
        on_ground("maps", [[0, 0, 100]], Counted(Area(shapely.box(-1, -1, 1, 1), DEGREES))),
        listed("theirs", {"longitude": [0.0], "latitude": [0.0], "diameter_m": [100.0]}, states_size=False),
    )
    assert len(result.notes) == 2
    assert "theirs does not say from which size on it is complete" in result.notes[0]
    assert "theirs does not say where craters were looked for" in result.notes[1]
