from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mars_assets.craters import size_frequency
from mars_assets.craters.catalogue import Catalogue
from mars_assets.craters.schema import CompleteDiameters, RatesBySize, SizeFrequency
from mars_assets.craters.size_frequency import Dating, Trials, size_frequency_of
from mars_assets.errors import MarsError
from mars_assets.plotting import as_image
from mars_assets_tests.craters.counts import catalogue_of, power_law, scene
from mars_assets_tests.craters.test_ages import KM2, drawn

SCENES = [scene("fine", 40, 5, 20), scene("coarse", 160, 20, 120)]


@pytest.fixture(autouse=True)
def without_craterstats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_frequency, "is_installed", lambda: False)


def some_craters(count: int = 400) -> Catalogue:
    rng = np.random.default_rng(count)
    by = rng.integers(0, 2, count)
    return catalogue_of(power_law(rng, count, 1.0) * np.array([40.0, 160])[by], SCENES, by)


def of_rate(rate, count: int = 3000, largest: float = 400) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    px = np.exp(rng.uniform(np.log(7), np.log(largest), count))
    return pd.DataFrame({"diameter_px": px, "success": rng.random(count) < rate(px)})


TRIALS = Trials(
    of_rate(lambda px: np.where(px < 14, 0.5, 0.97)),
    of_rate(lambda px: np.where(px < 26, 0.6, 0.96)),
    of_rate(lambda px: np.full(px.shape, 0.9)),
)


def test_everything_of_a_catalogue() -> None:
    catalogue = some_craters()
    made = size_frequency_of(catalogue, TRIALS)
    for table, schema in ((made.table, SizeFrequency), (made.rates, RatesBySize), (made.complete, CompleteDiameters)):
        schema.validate(table)
        assert len(table)
    by_counts = made.table.set_index("diameter_from_m").groupby("counts")
    raw, injected, labelled = (by_counts.get_group(name) for name in ("raw", "injection", "labels"))
    assert raw["craters"].sum() == 400
    assert (injected["craters"] == raw["craters"]).all(), "the raw numbers are beside the corrected ones"
    sizes = catalogue.craters["diameter_m"].to_numpy()
    densities = 1e6 / catalogue.area_m2(sizes)
    assert raw["at_least_per_km2"].iloc[2] == pytest.approx(densities[sizes >= raw.index[2]].sum())
    assert injected.loc[1000, "number"] == pytest.approx(0.9 / 0.97 * raw.loc[1000, "craters"], rel=0.03)
    assert labelled["number"].iloc[3] > 1.3 * injected["number"].iloc[3], "between 14 and 26 pixels"
    assert as_image(made.figure, dpi=40).width > 300
    assert made.rates_figure is not None
    assert as_image(made.rates_figure, dpi=40).width > 200


def test_counts_are_complete_in_metres_by_scene_and_in_all_of_them() -> None:
    made = size_frequency_of(some_craters(), TRIALS)
    injected = made.complete[made.complete["source"] == "injection"].set_index("scene")
    assert 12 * 5 < injected.loc["fine", "complete_m"] < 20 * 5
    assert injected.loc["coarse", "complete_m"] == pytest.approx(4 * injected.loc["fine", "complete_m"])
    assert (injected["complete_m_low"] <= injected["complete_m"]).all()
    assert (injected["complete_m"] <= injected["complete_m_high"]).all()
    labelled = made.complete[made.complete["source"] == "labels"].set_index("scene")
    said = next(text for text in made.sentences if text.startswith("By labels at least 0.9"))
    assert f"in all scenes from {labelled.loc['coarse', 'complete_m']:.0f} m on, which coarse needs" in said
    # The age begins where both sources say that all scenes are complete.
    (command,) = (text for text in made.sentences if "craterstats -cs" in text)
    assert f"range=[{made.complete['complete_m'].max() / 1000:.6g}," in command


def test_a_count_is_not_complete_below_what_is_listed() -> None:
    made = size_frequency_of(some_craters(), TRIALS._replace(injection=of_rate(lambda px: np.full(px.shape, 0.99))))
    injected = made.complete[made.complete["source"] == "injection"]
    assert (injected["complete_m"] == injected["smallest_m"]).all()


def test_what_is_not_known_is_said() -> None:
    alone = size_frequency_of(some_craters())
    assert set(alone.table["counts"]) == {"raw"}
    assert len(alone.rates) == 0
    assert len(alone.complete) == 0
    assert alone.rates_figure is None
    text = "\n".join(alone.sentences)
    assert "Completeness by injection is not known: there are no trials." in text
    assert "the age is from 0.16 km on, the smallest that all scenes list, and may be too low" in text
    assert "from 40 m on, are listed in some of the scenes" in text
    assert "craterstats is not installed (pip install 'craterstats>=3.6.11'" in text

    few = size_frequency_of(some_craters(), Trials(TRIALS.injection, of_rate(np.sign, 19), None))
    text = "\n".join(few.sentences)
    assert "Completeness by labels is not known: there are fewer than 20 trials." in text
    assert "Counts are not corrected, since the precision of what was found is not known" in text
    assert set(few.table["counts"]) == {"raw"}

    never = size_frequency_of(some_craters(), TRIALS._replace(labels=of_rate(lambda px: px < 0)))
    assert never.complete.set_index("source").loc["labels", "complete_m"].isna().all()
    text = "\n".join(never.sentences)
    assert "By labels the count is complete from no diameter on" in text
    assert "By labels, numbers of craters of at least some size are not corrected for sizes below" in text

    short = size_frequency_of(some_craters(), TRIALS._replace(injection=of_rate(lambda px: px > 0, largest=40)))
    rows = short.table[short.table["counts"] == "injection"]
    assert f"By injection, {rows['as_found'].max()} craters are larger than all trials" in "\n".join(short.sentences)


def test_no_craters_and_no_scenes() -> None:
    for scenes in (SCENES, []):
        made = size_frequency_of(catalogue_of(np.empty(0), scenes), TRIALS)
        assert len(made.table) == 0
        assert "There is no age, since no crater was counted." in made.sentences
        assert as_image(made.figure, dpi=40).width > 300


def test_craters_that_are_not_counted_count_nowhere() -> None:
    catalogue = some_craters()
    half = Catalogue(catalogue.craters.assign(counted=np.arange(400) % 2 == 0), catalogue.scenes)
    made = size_frequency_of(half)
    assert made.table["craters"].sum() == 200
    assert made.sentences[0].startswith("200 craters have their centre in the counted area, 140 km² in 2 scenes.")


def test_a_range_below_what_is_listed_is_refused() -> None:
    with pytest.raises(MarsError, match=r"begins at 0.03 km, but no scene lists craters below 0.04 km"):
        size_frequency_of(some_craters(), dating=Dating((0.03, 1)))
    made = size_frequency_of(some_craters(), dating=Dating((0.05, 1), scc=Path("all.scc")))
    assert "source=all.scc -p 'type=poisson,range=[0.05,1]'" in made.sentences[-1]


@pytest.mark.slow
@pytest.mark.process
def test_an_age_has_both_errors(craterstats_python: Path) -> None:
    sizes = drawn(craterstats_python, 3.5, 0.2, seed=3) * 1000
    rng = np.random.default_rng(0)
    found = sizes[rng.random(len(sizes)) < 0.92]
    catalogue = catalogue_of(found, [scene("a", 200, 10, KM2)])
    trials = Trials(of_rate(lambda px: np.full(px.shape, 0.92), 50_000), None, of_rate(lambda px: px > 0))
    made = size_frequency_of(catalogue, trials, Dating(size_error=0.02, python=craterstats_python))
    assert made.age is not None
    assert made.age_between is not None
    assert made.age.within_km == pytest.approx((0.2, found.max() / 1000))
    low, high = made.age_between
    assert low < made.age.median < high
    assert made.age.median + made.age.plus < 3.5, "a twelfth of thousands of craters is missing"
    assert high == pytest.approx(3.5, abs=3 * made.age.plus)
    text = "\n".join(made.sentences)
    assert "Mars, Ivanov (2001)" in text
    assert "as densities are corrected for missed and false craters and diameters are divided by 1.02 or not" in text

    plain = size_frequency_of(catalogue, dating=Dating(python=craterstats_python))
    assert plain.age is not None
    assert plain.age_between is None
    assert plain.sentences[-1].startswith("The model's own error is not in it")
    tiny = catalogue_of(np.array([3.0, 5.0]), [scene("a", 2, 0.25, 1)])
    none = size_frequency_of(tiny, dating=Dating(python=craterstats_python))
    assert none.age is None
    assert none.sentences[-1].startswith("There is no age: no crater of 0.002 to 0.005 km")
