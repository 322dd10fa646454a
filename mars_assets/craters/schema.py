"""The schema of a crater catalogue."""

import pandera.pandas as pa


class CraterCatalogue(pa.DataFrameModel):
    """One row for each crater; of an image the largest first."""

    image_id: str = pa.Field(description="the image")
    observation: str = pa.Field(nullable=True, description="the image's group")
    crater: int = pa.Field(ge=1, coerce=True, description="number in the image, from 1, the largest first")
    x_px: float = pa.Field(coerce=True, description="column of the centre; 0 is the left edge of the first pixel")
    y_px: float = pa.Field(coerce=True, description="row of the centre; 0 is the upper edge of the first pixel")
    diameter_px: float = pa.Field(gt=0, coerce=True, description="of the disc of equal area")
    probability: float = pa.Field(
        ge=0, le=1, coerce=True, description="mean over the crater's pixels in the mask: of an outline those of its rim"
    )
    cut: bool = pa.Field(
        coerce=True,
        description="whether the border of the image cuts it: centre and diameter are then of the part that is seen",
    )
    diameter_m: float = pa.Field(
        nullable=True, gt=0, coerce=True, description="metres, where the image is map projected"
    )
    longitude: float = pa.Field(
        nullable=True, coerce=True, description="of the centre, degrees east, 0 to 360, likewise"
    )
    latitude: float = pa.Field(nullable=True, coerce=True, description="of the centre, planetocentric, likewise")
