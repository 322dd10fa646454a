"""The schemas of the chosen observations and of the crops cut from one."""

import pandera.pandas as pa

from mars_assets.imagery.products import PRODUCT_TYPES


class Observations(pa.DataFrameModel):
    """One row for each chosen observation, with its product's addresses and what the index says of it."""

    observation: str = pa.Field(unique=True, description="HiRISE observation id")
    product: str = pa.Field(isin=PRODUCT_TYPES, description="which of its products is used")
    note: str = pa.Field(description="the note of observations.csv")
    image: str = pa.Field(description="address of the image, relative to the archive's base")
    label: str = pa.Field(nullable=True, description="address of the PDS3 label, where the product has one")
    incidence_angle: float | None = pa.Field(
        nullable=True,
        coerce=True,
        description="sun's angle from the vertical in degrees, by the index; empty without it",
    )
    solar_longitude: float | None = pa.Field(
        nullable=True,
        coerce=True,
        description="season: L_s in degrees, 0 is northern spring's begin; by the index",
    )
    corners: object | None = pa.Field(
        nullable=True,
        description="latitude and longitude of the swath's corners, clockwise from the first line's first sample; from "
        "the index",
    )


class Crops(pa.DataFrameModel):
    """One row for each cell of the grid that a product is cut by."""

    crop_id: str = pa.Field(unique=True, description="names the crop, and its file")
    observation: str = pa.Field(description="HiRISE observation id")
    product: str = pa.Field(isin=PRODUCT_TYPES, description="the product that was cut")
    row: int = pa.Field(ge=0, coerce=True, description="the window's first line in the product")
    col: int = pa.Field(ge=0, coerce=True, description="the window's first sample in the product")
    height: int = pa.Field(ge=1, coerce=True, description="pixels")
    width: int = pa.Field(ge=1, coerce=True, description="pixels")
    kept: bool = pa.Field(description="whether a crop was cut")
    reason: str = pa.Field(
        isin=("", "no data", "band missing", "saturated"), description="why none was; empty where one was"
    )
    file: str = pa.Field(nullable=True, description="name of the 8-bit RGB PNG; None where none was cut")
    dn_file: str = pa.Field(
        nullable=True, description="name of the GeoTIFF of a calibrated product's DN; None of other products"
    )
    invalid_fraction: float = pa.Field(
        ge=0,
        le=1,
        coerce=True,
        description="share of pixels without data or a band: exact where the cell was decoded, else the overview's",
    )
    saturated_fraction: float = pa.Field(ge=0, le=1, coerce=True, description="share of pixels saturated in any band")
    stretch_low: object = pa.Field(description="the values of red, green and blue that became 0")
    stretch_high: object = pa.Field(description="the values of red, green and blue that became 255")
    crs: str = pa.Field(nullable=True, description="WKT; None unless position_kind is 'projected'")
    transform: object = pa.Field(
        nullable=True, description="the crop's own, six numbers in affine.Affine's order; None likewise"
    )
    position_kind: str = pa.Field(
        isin=("projected", "approximate", "pixel"),
        description="how the position is known: from the projection, interpolated between the swath's corners, or not "
        "at all",
    )
    longitude: float = pa.Field(
        nullable=True, coerce=True, description="of the crop's centre, degrees east; NaN where the place is unknown"
    )
    latitude: float = pa.Field(
        nullable=True, coerce=True, description="of the crop's centre, planetocentric; NaN likewise"
    )
