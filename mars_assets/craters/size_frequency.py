"""Size-frequency statistics and model age of a catalogue.

They are tables, figures, and sentences that state what these say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mars_assets.craters.ages import INSTALL, Age, NoAgeError, craterstats_command, is_installed, model_age, model_ages
from mars_assets.craters.catalogue import Catalogue
from mars_assets.craters.correction import corrected_numbers, counted_craters, share_that_is_real
from mars_assets.craters.frequency import bin_edges, frequency_table, raw_numbers
from mars_assets.craters.frequency_figures import frequency_figure, rates_figure
from mars_assets.craters.rates import COMPLETE, FEWEST_TRIALS, Rate
from mars_assets.errors import MarsError
from mars_assets.storage.schema import columns_of, conformed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = npt.NDArray[np.float64]

SOURCES = ("injection", "labels")
"""Where completeness comes from."""


class Trials(NamedTuple):
    """Trials of the model, each a table ``diameter_px, success``.

    None where there are none.

    Args:
        injection: craters that were drawn into scenes, and whether they were found.
        labels: craters that a person marked, and whether they were found.
        precision: craters that were found in images which a person marked, and whether that person marked them.
    """

    injection: pd.DataFrame | None = None
    labels: pd.DataFrame | None = None
    precision: pd.DataFrame | None = None


class Dating(NamedTuple):
    """How a surface is dated.

    Args:
        within_km: smallest and largest diameter. By default from where the count is complete to the largest crater.
        size_error: how much too large the map's diameters are in the mean, such as 0.03; None or NaN if unknown.
        scc: the catalogue's ``.scc``, for the command that dates it.
        python: interpreter that has craterstats; by default that of this process.
    """

    within_km: tuple[float, float] | None = None
    size_error: float | None = None
    scc: Path = Path("craters.scc")
    python: Path | None = None


@dataclass(frozen=True)
class SizeFrequencies:
    """What the sizes of a catalogue's craters say.

    Args:
        table: see :class:`mars_assets.craters.schema.SizeFrequency`.
        rates: see :class:`mars_assets.craters.schema.RatesBySize`.
        complete: see :class:`mars_assets.craters.schema.CompleteDiameters`.
        age: the model age; None without craterstats or without craters in the range.
        age_between: the lowest and highest age in Ga if densities are corrected and diameters have their stated error;
            None if neither is known.
        sentences: what the rest says, and what is missing and why.
        figure: the size-frequency plots.
        rates_figure: the rates; None without trials.
    """

    table: pd.DataFrame
    rates: pd.DataFrame
    complete: pd.DataFrame
    age: Age | None
    age_between: tuple[float, float] | None
    sentences: list[str]
    figure: Figure
    rates_figure: Figure | None


def size_frequency_of(
    catalogue: Catalogue,
    trials: Trials = Trials(),  # noqa: B008 - immutable
    dating: Dating = Dating(),  # noqa: B008 - immutable
) -> SizeFrequencies:
    """Compute size-frequency statistics, completeness and model age of a catalogue.

    Args:
        catalogue: the craters.
        trials: of the model that found them.
        dating: how the surface is dated.

    Raises:
        MarsError: craterstats refuses the craters, or the range begins below the sizes that are listed.
    """
    from mars_assets.craters.schema import CompleteDiameters, RatesBySize, SizeFrequency

    rates = {name: Rate.of_trials(table) for name, table in trials._asdict().items() if table is not None}
    known = {name: rate for name, rate in rates.items() if rate is not None}
    table = _table(catalogue, known)
    complete = _complete(catalogue, known)
    listed = [rate.table().assign(rate_of=name) for name, rate in known.items()]
    by_size = pd.concat(listed) if listed else pd.DataFrame(columns=list(columns_of(RatesBySize)))
    complete_m = _complete_everywhere(complete)
    sentences = [*_counted(catalogue), *_completeness(catalogue, rates, complete), *_corrections(table, known)]
    age, between, dated = _dated(catalogue, known, complete_m, dating)
    by_size = conformed(by_size[list(columns_of(RatesBySize))], RatesBySize, "the rates by size")
    return SizeFrequencies(
        table=conformed(table[list(columns_of(SizeFrequency))], SizeFrequency, "the size-frequency table"),
        rates=by_size.reset_index(drop=True),
        complete=conformed(complete, CompleteDiameters, "the table of complete diameters"),
        age=age,
        age_between=between,
        sentences=[*sentences, *dated],
        figure=frequency_figure(table, complete_m),
        rates_figure=rates_figure(by_size) if known else None,
    )


def _table(catalogue: Catalogue, rates: Mapping[str, Rate]) -> pd.DataFrame:
    """List numbers and densities as counted, and corrected where there are trials."""
    diameters = counted_craters(catalogue)["diameter_m"].to_numpy(np.float64)
    edges = bin_edges(diameters, 1000.0)
    raw = frequency_table(diameters, edges, catalogue.area_m2, raw_numbers(diameters, edges, catalogue.area_m2))
    tables = [raw.assign(counts="raw", as_found=raw["at_least"].astype(np.int64))]
    for source in SOURCES:
        if len(raw) and source in rates and "precision" in rates:
            corrected = corrected_numbers(catalogue, edges, (rates[source], rates["precision"]))
            numbers = frequency_table(diameters, edges, catalogue.area_m2, corrected.numbers)
            tables.append(numbers.assign(counts=source, as_found=corrected.as_found))
    return pd.concat(tables, ignore_index=True)


def _complete(catalogue: Catalogue, rates: Mapping[str, Rate]) -> pd.DataFrame:
    """List the diameters in metres from which on scenes are complete."""
    from mars_assets.craters.schema import CompleteDiameters

    rows = []
    for source in (source for source in SOURCES if source in rates):
        diameters = rates[source].complete_from()
        for scene in catalogue.scenes:
            estimate, low, high = (
                np.nan if diameter is None else max(diameter * scene.pixel_m, scene.smallest_m)
                for diameter in diameters
            )
            rows.append((source, scene.scene, scene.smallest_m, estimate, low, high))
    return pd.DataFrame(rows, columns=list(columns_of(CompleteDiameters)))


def _complete_everywhere(complete: pd.DataFrame) -> float | None:
    """Choose the largest diameter, of all scenes and sources."""
    largest = complete["complete_m"].max() if len(complete) else np.nan
    return None if np.isnan(largest) else float(largest)


def _counted(catalogue: Catalogue) -> Iterator[str]:
    craters, scenes = counted_craters(catalogue), catalogue.scenes
    if not scenes:
        yield "No scene was counted."
        return
    area = catalogue.area_m2(np.inf) / 1e6
    where = "one scene" if len(scenes) == 1 else f"{len(scenes):,} scenes"
    yield (
        f"{len(craters):,} craters have their centre in the counted area, {_number(float(area))} km² in {where}. "
        f"All scenes list craters from {_number(scenes[-1].smallest_m)} m on."
    )
    if scenes[0].smallest_m < scenes[-1].smallest_m:
        yield (
            f"Smaller craters, from {_number(scenes[0].smallest_m)} m on, are listed in some of the scenes; their "
            "density is that on the area of these."
        )


def _completeness(catalogue: Catalogue, rates: Mapping[str, Rate | None], complete: pd.DataFrame) -> Iterator[str]:
    for source in SOURCES:
        rate = rates.get(source)
        if rate is None:
            few = f"there are fewer than {FEWEST_TRIALS} trials" if source in rates else "there are no trials"
            yield f"Completeness by {source} is not known: {few}."
            continue
        reach = f"trials reach from {_number(rate.edges[0])} to {_number(rate.edges[-1])} pixels{_spread(rate)}"
        estimate, low, high = rate.complete_from()
        if estimate is None:
            yield f"By {source} the count is complete from no diameter on: fewer than {COMPLETE:g} are found ({reach})."
            continue
        rows = complete[complete["source"] == source]
        ends = " to ".join("beyond the trials" if end is None else _number(end) for end in (low, high))
        text = (
            f"By {source} at least {COMPLETE:g} of the craters are found from {_number(estimate)} pixels on "
            f"({ends} by the ends of the 68 % interval; {reach})"
        )
        if not rows.empty:
            worst = rows.iloc[int(rows["complete_m"].argmax())]
            text += f": in all scenes from {_number(worst['complete_m'])} m on"
            text += f", which {worst['scene']} needs" if len(catalogue.scenes) > 1 else ""
        yield f"{text}."


def _spread(rate: Rate) -> str:
    """Say whether intervals hold what differs between observations."""
    if rate.observations == 0:
        return ""
    if rate.observations == 1:
        return ", all in one observation, so that the interval does not hold what differs between observations"
    return f", in {rate.observations} observations, whose differences are in the interval"


def _corrections(table: pd.DataFrame, rates: Mapping[str, Rate]) -> Iterator[str]:
    if "precision" not in rates and any(source in rates for source in SOURCES):
        yield "Counts are not corrected, since the precision of what was found is not known: there are too few trials."
    for source, rows in table[table["counts"] != "raw"].groupby("counts", sort=False):
        missing = int(rows["at_least"].isna().sum())
        if missing:
            until = rows["diameter_to_m"].iloc[missing - 1]
            yield (
                f"By {source}, numbers of craters of at least some size are not corrected for sizes below "
                f"{_number(until)} m: some are smaller than all trials, or of a size of which none was found."
            )
        if rows["as_found"].iloc[0]:
            yield (
                f"By {source}, {rows['as_found'].iloc[0]:,} craters are larger than all trials and count as they were "
                "found."
            )


def _dated(
    catalogue: Catalogue, rates: Mapping[str, Rate], complete_m: float | None, dating: Dating
) -> tuple[Age | None, tuple[float, float] | None, list[str]]:
    """Date the surface, and say how, or why not."""
    craters = counted_craters(catalogue)
    diameters = craters["diameter_m"].to_numpy(np.float64) / 1000
    if not len(diameters):
        return None, None, ["There is no age, since no crater was counted."]
    within, sentences = _range(catalogue, diameters, complete_m, dating)
    if dating.python is None and not is_installed():
        way = f"craterstats is not installed ({INSTALL}, with Python 3.12 or later). This command computes the age:"
        return None, None, [*sentences, f"{way} {craterstats_command(dating.scc, within)}"]
    areas = {one.smallest_m / 1000: float(catalogue.area_m2(one.smallest_m)) / 1e6 for one in catalogue.scenes}
    try:
        age = model_age(diameters, areas, within, dating.python)
    except NoAgeError as error:
        return None, None, [*sentences, f"There is no age: {error}."]
    sentences.append(
        f"The model age is {_age(age)}, from {age.craters:,} craters of {_number(age.within_km[0])} to "
        f"{_number(age.within_km[1])} km, by {age.software} with the production function {age.production} and the "
        f"chronology function {age.chronology}. Its interval is that of the number of craters."
    )
    if not np.allclose(age.within_km, within):
        sentences.append("The range is cut to that of the production function.")
    inside = (diameters >= age.within_km[0]) & (diameters < age.within_km[1])
    densities = _density_factors(craters["diameter_px"].to_numpy(np.float64)[inside], rates)
    sizes = _size_factors(dating)
    if not densities and not sizes:
        return age, None, [*sentences, "The model's own error is not in it: no trials and no error of sizes are known."]
    variants = [*product([1.0, *sizes], [1.0, *densities])]
    medians = [other.median for other in model_ages(diameters, areas, age.within_km, variants, dating.python)]
    causes = ["densities are corrected for missed and false craters"] if densities else []
    causes += [f"diameters are divided by {factor:g}" for factor in sizes]
    text = f"It is between {_in_ga(min(medians))} and {_in_ga(max(medians))} as {' and '.join(causes)} or not"
    unknown = "" if densities else "; the correction is not known"
    unknown += "" if sizes else "; the error of sizes is not known"
    return age, (min(medians), max(medians)), [*sentences, f"{text}{unknown}."]


def _size_factors(dating: Dating) -> list[float]:
    """List by how much diameters are too large, if that is known."""
    error = dating.size_error
    return [] if error is None or math.isnan(error) else [1 + error]


def _range(
    catalogue: Catalogue, diameters_km: Float64, complete_m: float | None, dating: Dating
) -> tuple[tuple[float, float], list[str]]:
    """Choose the diameters in kilometres from which the surface is dated.

    Raises:
        MarsError: the chosen range begins below the smallest listed size.
    """
    if dating.within_km is not None:
        if dating.within_km[0] * 1000 < catalogue.scenes[0].smallest_m:
            raise MarsError(
                f"the range for the age begins at {dating.within_km[0]:g} km, but no scene lists craters below "
                f"{catalogue.scenes[0].smallest_m / 1000:g} km: begin there or above"
            )
        return dating.within_km, []
    largest_m = float(diameters_km.max())
    if complete_m is not None:
        return (complete_m / 1000, largest_m), []
    start = catalogue.scenes[-1].smallest_m / 1000
    text = f"No diameter is known from which on the count is complete, so the age is from {_number(start)} km on"
    return (start, largest_m), [f"{text}, the smallest that all scenes list, and may be too low."]


def _density_factors(diameters_px: Float64, rates: Mapping[str, Rate]) -> list[float]:
    """List the ends of the intervals of real craters per crater found."""
    factors = []
    for source in SOURCES:
        if source in rates and "precision" in rates:
            share = share_that_is_real(diameters_px, (rates[source], rates["precision"]))
            factors += [] if share is None else [float(share.low), float(share.high)]
    return factors


def _age(age: Age) -> str:
    unit, factor = ("Ga", 1) if age.median >= 1 else ("Ma", 1000)
    values = [factor * value for value in (age.median, age.plus, age.minus)]
    digits = max(0, 1 - math.floor(math.log10(min(values))))  # two of the smaller error
    median, plus, minus = (f"{value:.{digits}f}" for value in values)
    return f"{median} (+{plus}, -{minus}) {unit}"


def _in_ga(age: float) -> str:
    return f"{_number(age)} Ga" if age >= 1 else f"{_number(1000 * age)} Ma"


def _number(value: float) -> str:
    """Write a number with three digits."""
    return f"{float(f'{value:.3g}'):,g}"
