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
