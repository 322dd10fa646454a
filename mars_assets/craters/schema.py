"""The schema of a crater catalogue."""

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
