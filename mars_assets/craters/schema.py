"""The schema of a crater catalogue."""

from typing import Any

import pandera.pandas as pa


class CraterCatalogue(pa.DataFrameModel):
    """A row for each crater, the largest of each image first."""

    image_id: str = pa.Field(description="id of the image")
    observation: str = pa.Field(nullable=True, description="observation of the image")
    crater: int = pa.Field(ge=1, coerce=True, description="number of the crater in the image, from 1 for the largest")
    x_px: float = pa.Field(coerce=True, description="column of the centre; 0 is the left edge of the first pixel")
    y_px: float = pa.Field(coerce=True, description="row of the centre; 0 is the upper edge of the first pixel")
    diameter_px: float = pa.Field(gt=0, coerce=True, description="diameter of the disc of equal area in pixels")
    probability: float = pa.Field(
        ge=0, le=1, coerce=True, description="mean over the crater's pixels in the mask; for outlines, over its rim"
    )
    cut: bool = pa.Field(
        coerce=True,
        description="whether the image border cuts the crater; centre and diameter are then those of the visible part",
    )
    diameter_m: float = pa.Field(
        nullable=True, gt=0, coerce=True, description="diameter on the ground in metres, if the image is map projected"
    )
    longitude: float = pa.Field(
        nullable=True, coerce=True, description="longitude of the centre in degrees east, 0 to 360, if map projected"
    )
    latitude: float = pa.Field(
        nullable=True, coerce=True, description="planetocentric latitude of the centre in degrees, if map projected"
    )


class MappedCraters(pa.DataFrameModel):
    """A row for each crater of a scene, the largest first.

    What concerns the ground is missing if the raster is not map projected. Diameters in metres are along the ground.
    """

    crater_id: str = pa.Field(unique=True, description="id of the crater, from its place and size in the scene")
    x_px: float = pa.Field(coerce=True, description="column of the centre; 0 is the left edge of the first pixel")
    y_px: float = pa.Field(coerce=True, description="row of the centre; 0 is the upper edge of the first pixel")
    diameter_px: float = pa.Field(gt=0, coerce=True, description="diameter of the disc of equal area in pixels")
    longitude: float = pa.Field(
        nullable=True, ge=0, lt=360, coerce=True, description="longitude of the centre in degrees east, 0 to 360"
    )
    latitude: float = pa.Field(
        nullable=True, ge=-90, le=90, coerce=True, description="planetocentric latitude of the centre in degrees"
    )
    diameter_m: float = pa.Field(
        nullable=True,
        gt=0,
        coerce=True,
        description="diameter of the disc of equal area in metres, on the sphere of the raster's own projection",
    )
    diameter_iau_m: float = pa.Field(
        nullable=True, gt=0, coerce=True, description="the same on IAU 2015's sphere, radius 3396.19 km"
    )
    axis_ratio: float = pa.Field(
        gt=0, le=1, coerce=True, description="minor over major axis of the ellipse that fits the outline best"
    )
    angle: float = pa.Field(
        ge=0,
        lt=180,
        coerce=True,
        description="direction of the major axis in degrees clockwise from north, or from up without a projection",
    )
    roundness: float = pa.Field(
        ge=0, le=1, coerce=True, description="intersection over union of the outline and its ellipse"
    )
    rim_coverage: float = pa.Field(
        ge=0, le=1, coerce=True, description="share of the directions in which the outline follows the ellipse"
    )
    confidence: float = pa.Field(
        ge=0, le=1, coerce=True, description="highest probability in the crater, as the model states it"
    )
    probability: float = pa.Field(
        nullable=True,
        ge=0,
        le=1,
        coerce=True,
        description="calibrated probability that a person would mark it; missing if the model is not calibrated",
    )
    counted: bool = pa.Field(coerce=True, description="whether the centre is inside the counted area")
    counted_share: float = pa.Field(
        ge=0, le=1, coerce=True, description="share of the crater's disc inside the counted area"
    )
    cut: bool = pa.Field(
        coerce=True, description="whether it reaches out of the image; size and place are those of a fitted circle"
    )
    scale: float = pa.Field(gt=0, coerce=True, description="reduction of the image at which it was seen best")
    detections: int = pa.Field(ge=1, coerce=True, description="number of detections at all scales that are this crater")


class InjectedCraters(pa.DataFrameModel):
    """A row for each crater that was drawn into a scene and looked for."""

    diameter_px: float = pa.Field(gt=0, coerce=True, description="diameter as drawn, in pixels")
    diameter_m: float = pa.Field(
        nullable=True,
        gt=0,
        coerce=True,
        description="the same in metres, on the sphere of the raster's own projection; missing without one",
    )
    found: bool = pa.Field(coerce=True, description="whether a listed crater is this one")
    found_diameter_px: float = pa.Field(
        nullable=True, gt=0, coerce=True, description="diameter of that one in pixels; missing if not found"
    )
    probability: float = pa.Field(
        nullable=True,
        ge=0,
        le=1,
        coerce=True,
        description="its calibrated probability; missing if not found, or if the model is not calibrated",
    )
    degradation: float = pa.Field(ge=0, le=1, coerce=True, description="from 0 (fresh) to 1 (shallow, with a soft rim)")
    x_px: float = pa.Field(coerce=True, description="column of the centre in the scene")
    y_px: float = pa.Field(coerce=True, description="row of the centre in the scene")
    patch: int = pa.Field(ge=0, coerce=True, description="number of the part of the scene into which it was drawn")


class CataloguedCraters(pa.DataFrameModel):
    """A row for each crater of all scenes, the largest first.

    A crater that several scenes show has the values of the one that shows it best. Sizes and places are those on IAU
    2015's sphere.
    """

    crater_id: str = pa.Field(unique=True, description="id of the crater in the map of the scene that shows it best")
    scene: str = pa.Field(description="the scene that shows it best")
    scenes: str = pa.Field(description="all scenes in which it was found, separated by blanks")
    longitude: float = pa.Field(
        ge=0, lt=360, coerce=True, description="longitude of the centre in degrees east, 0 to 360"
    )
    latitude: float = pa.Field(
        ge=-90, le=90, coerce=True, description="planetocentric latitude of the centre in degrees"
    )
    diameter_m: float = pa.Field(gt=0, coerce=True, description="diameter of the disc of equal area in metres")
    diameter_px: float = pa.Field(gt=0, coerce=True, description="the same in pixels of its scene")
    axis_ratio: float = pa.Field(
        gt=0, le=1, coerce=True, description="minor over major axis of the ellipse that fits the outline best"
    )
    angle: float = pa.Field(
        ge=0, lt=180, coerce=True, description="direction of the major axis in degrees clockwise from north"
    )
    roundness: float = pa.Field(
        ge=0, le=1, coerce=True, description="intersection over union of the outline and its ellipse"
    )
    rim_coverage: float = pa.Field(
        ge=0, le=1, coerce=True, description="share of the directions in which the outline follows the ellipse"
    )
    confidence: float = pa.Field(
        ge=0, le=1, coerce=True, description="highest probability in the crater, as the model states it"
    )
    probability: float = pa.Field(
        nullable=True,
        ge=0,
        le=1,
        coerce=True,
        description="calibrated probability that a person would mark it; missing if the model is not calibrated",
    )
    counted: bool = pa.Field(
        coerce=True, description="whether the centre is in the counted area of a scene that lists craters of its size"
    )
    cut: bool = pa.Field(
        coerce=True, description="whether it reaches out of the scene; size and place are those of a fitted circle"
    )


def _end(column: str, side: str) -> Any:
    """Define a column for an end of another one's interval."""
    return pa.Field(nullable=True, coerce=True, description=f"{side} end of the interval of {column}")


class SizeFrequency(pa.DataFrameModel):
    """A row for each bin of sizes of a catalogue, as counted and as corrected.

    Bins are from d to sqrt(2) d with a border at 1 km. Intervals are 68 % intervals. What the
    trials do not reach is missing.
    """

    counts: str = pa.Field(
        isin=["raw", "injection", "labels"],
        description="raw, or where the completeness comes from for which numbers are corrected: injection or labels",
    )
    diameter_from_m: float = pa.Field(gt=0, coerce=True, description="smallest diameter of the bin in metres")
    diameter_to_m: float = pa.Field(gt=0, coerce=True, description="the smallest of the next bin")
    partial: bool = pa.Field(
        coerce=True,
        description="whether no scene lists craters from the bin's start on, so that its numbers are too low",
    )
    area_km2: float = pa.Field(
        gt=0, coerce=True, description="area in square kilometres on which craters are listed at the bin's end"
    )
    craters: int = pa.Field(ge=0, coerce=True, description="craters in the bin as counted, in all rows")
    sqrt_n: float = pa.Field(ge=0, coerce=True, description="square root of that")
    as_found: int = pa.Field(
        ge=0, coerce=True, description="craters in at_least that are not corrected, since no trial is so large"
    )
    number: float = pa.Field(nullable=True, coerce=True, description="craters in the bin, corrected unless raw")
    number_low: float = _end("number", "lower")
    number_high: float = _end("number", "upper")
    at_least: float = pa.Field(nullable=True, coerce=True, description="craters of at least diameter_from_m")
    at_least_low: float = _end("at_least", "lower")
    at_least_high: float = _end("at_least", "upper")
    at_least_per_km2: float = pa.Field(nullable=True, coerce=True, description="the same per km2: cumulative")
    at_least_per_km2_low: float = _end("at_least_per_km2", "lower")
    at_least_per_km2_high: float = _end("at_least_per_km2", "upper")
    per_km2: float = pa.Field(
        nullable=True, coerce=True, description="craters in the bin per square kilometre: Hartmann's presentation"
    )
    per_km2_low: float = _end("per_km2", "lower")
    per_km2_high: float = _end("per_km2", "upper")
    per_km2_km: float = pa.Field(
        nullable=True, coerce=True, description="the same per kilometre of the bin's width: differential"
    )
    per_km2_km_low: float = _end("per_km2_km", "lower")
    per_km2_km_high: float = _end("per_km2_km", "upper")
    r: float = pa.Field(
        nullable=True, coerce=True, description="the same times d^3, d being the geometric mean of the bin's ends: R"
    )
    r_low: float = _end("r", "lower")
    r_high: float = _end("r", "upper")


class RatesBySize(pa.DataFrameModel):
    """A row for each bin of sizes of each completeness, and of precision."""

    rate_of: str = pa.Field(
        isin=["injection", "labels", "precision"],
        description="completeness by injection or labels, or precision of what was found",
    )
    diameter_from_px: float = pa.Field(gt=0, coerce=True, description="smallest diameter in pixels")
    diameter_to_px: float = pa.Field(gt=0, coerce=True, description="the smallest of the next bin")
    middle_px: float = pa.Field(gt=0, coerce=True, description="geometric mean of the diameters of its trials")
    trials: int = pa.Field(gt=0, coerce=True, description="craters that were there, or for precision were found")
    successes: int = pa.Field(ge=0, coerce=True, description="of them, those that were found, or are there")
    rate: float = pa.Field(ge=0, le=1, coerce=True, description="successes / trials")
    rate_low: float = pa.Field(ge=0, le=1, coerce=True, description="lower end of its 68 % Jeffreys interval")
    rate_high: float = pa.Field(ge=0, le=1, coerce=True, description="upper end")


class CompleteDiameters(pa.DataFrameModel):
    """The diameters from which on counts are complete, by source and scene."""

    source: str = pa.Field(isin=["injection", "labels"], description="where the completeness comes from")
    scene: str = pa.Field(description="the scene")
    smallest_m: float = pa.Field(gt=0, coerce=True, description="diameter in metres from which craters are listed")
    complete_m: float = pa.Field(
        nullable=True, coerce=True, description="diameter from which on completeness is at least 0.9; missing if never"
    )
    complete_m_low: float = pa.Field(
        nullable=True, coerce=True, description="the same by the upper ends of the intervals of completeness"
    )
    complete_m_high: float = pa.Field(nullable=True, coerce=True, description="the same by their lower ends")
