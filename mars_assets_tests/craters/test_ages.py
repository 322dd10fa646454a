import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mars_assets.craters import ages
from mars_assets.craters.ages import CHRONOLOGY, PRODUCTION, NoAgeError, craterstats_command, model_age, model_ages
from mars_assets.errors import MarsError

SCRIPT = Path(__file__).parent / "formats" / "read_by_craterstats.py"
KM2 = 2000.0


def drawn(python: Path, age: float, smallest_km: float, seed: int, km2: float = KM2) -> np.ndarray:
    """Diameters in kilometres of a surface of some age, by craterstats' own production function."""
    command = [str(python), str(SCRIPT), "draw", *map(str, (age, smallest_km, km2, seed))]
    return np.array(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("age", [0.3, 3.6])
def test_the_age_put_in_is_recovered(craterstats_python: Path, age: float) -> None:
    inside, ratios = [], []
    for seed in range(4):
        sizes = drawn(craterstats_python, age, 0.2, seed)
        assert len(sizes) > 10
        found = model_age(sizes, KM2, (0.2, sizes.max()), craterstats_python)
        assert found.craters == len(sizes) - 1, "the range ends at the largest crater"
        assert (found.production, found.chronology, found.software) == (PRODUCTION, CHRONOLOGY, "craterstats 3.6.11")
        inside.append(found.median - found.minus <= age <= found.median + found.plus)
        assert found.median - 4 * found.minus < age < found.median + 4 * found.plus
        ratios.append(found.median / age)
    assert sum(inside) >= 3
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)


@pytest.mark.slow
@pytest.mark.process
def test_areas_by_size_and_other_assumptions(craterstats_python: Path) -> None:
    whole = drawn(craterstats_python, 3.0, 0.1, seed=1)
    # The larger half of the area lists craters from 300 m on only.
    rng = np.random.default_rng(0)
    kept = whole[(whole >= 0.3) | (rng.random(len(whole)) < 0.5)]
    ends = (0.1, 5.0)
    plain, larger, denser = model_ages(
        kept, {0.1: KM2 / 2, 0.3: KM2}, ends, [(1, 1), (1.05, 1), (1, 2)], craterstats_python
    )
    assert plain.median - 2 * plain.minus < 3.0 < plain.median + 2 * plain.plus
    everywhere = model_age(kept, KM2, ends, craterstats_python)
    assert everywhere.median < 0.8 * plain.median, "as if half of the craters were missing"
    assert larger.median < plain.median < denser.median
    assert larger.craters == ((kept / 1.05 >= 0.1) & (kept / 1.05 < 5)).sum()
    half = model_age(kept, {0.1: KM2 / 4, 0.3: KM2 / 2}, ends, craterstats_python)
    assert denser.median == pytest.approx(half.median)


@pytest.mark.slow
@pytest.mark.process
def test_a_range_is_cut_to_that_of_the_production_function(craterstats_python: Path) -> None:
    found = model_age([0.005, 0.02, 0.03], 1.0, (0.001, 0.1), craterstats_python)
    assert found.within_km == pytest.approx((0.015, 0.1))
    assert found.craters == 2
    for ends in ((0.001, 0.01), (1.0, 2.0), (0.2, 0.1)):
        with pytest.raises(NoAgeError, match="from which an age could be computed"):
            model_age([0.005, 0.02, 0.03], 1.0, ends, craterstats_python)


def test_without_craterstats_an_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ages, "is_installed", lambda: False)
    with pytest.raises(MarsError, match=r"not installed.*pip install 'craterstats>=3.6.11'"):
        model_age([1.0], 1.0, (0.1, 2))


@pytest.mark.process
@pytest.mark.skipif(ages.is_installed(), reason="this interpreter has craterstats")
def test_an_interpreter_without_it_is_named() -> None:
    with pytest.raises(MarsError, match=r"No module named 'craterstats'\): .*python"):
        model_age([1.0], 1.0, (0.1, 2), Path(sys.executable))


def test_what_cannot_be_run_or_dated_is_said(tmp_path: Path) -> None:
    with pytest.raises(MarsError, match="cannot be run by"):
        model_age([1.0], 1.0, (0.1, 2), tmp_path / "python")
    with pytest.raises(MarsError, match="above 0"):
        model_age([1.0], 0.0, (0.1, 2), tmp_path / "python")


def test_the_command_is_that_of_the_manual() -> None:
    command = craterstats_command(Path("SCENE.scc"), (0.02, 0.1))
    manual = (Path(__file__).parents[2] / "docs/how-to/mapping.md").read_text()
    assert command.replace("'", '"') in manual
    assert "'source=a b.scc'" in craterstats_command(Path("a b.scc"), (0.02, 0.1))
