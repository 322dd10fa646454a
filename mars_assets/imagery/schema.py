"""The schemas of the selected observations and of the crops of an observation."""

import pandera.pandas as pa

from mars_assets.imagery.products import PRODUCT_TYPES


class Observations(pa.DataFrameModel):
    """A row for each selected observation.

    It has its product's addresses and facts from the index.
    """

    observation: str = pa.Field(unique=True, description="HiRISE observation id")
    product: str = pa.Field(isin=PRODUCT_TYPES, description="the product used")
    note: str = pa.Field(description="the note in observations.csv")
    image: str = pa.Field(description="address of the image, relative to the archive's base")
    label: str = pa.Field(nullable=True, description="address of the PDS3 label, if the product has one")
    incidence_angle: float | None = pa.Field(
        nullable=True,
        coerce=True,
        description="the sun's angle from the vertical in degrees, from the index; empty without it",
    )
    solar_longitude: float | None = pa.Field(
        nullable=True,
        coerce=True,
        description="season: L_s in degrees, 0 at the start of northern spring, from the index; empty without it",
    )
    corners: object | None = pa.Field(
        nullable=True,
        description="latitude and longitude of the swath's corners, clockwise from the first sample of the first line, "
        "from the index",
    )


class Crops(pa.DataFrameModel):
    """A row for each cell of the grid into which a product is cut."""

    crop_id: str = pa.Field(unique=True, description="name of the crop and stem of its file")
    observation: str = pa.Field(description="HiRISE observation id")
    product: str = pa.Field(isin=PRODUCT_TYPES, description="the product that was cut")
    row: int = pa.Field(ge=0, coerce=True, description="first line of the window in the product")
    col: int = pa.Field(ge=0, coerce=True, description="first sample of the window in the product")
    height: int = pa.Field(ge=1, coerce=True, description="height in pixels")
    width: int = pa.Field(ge=1, coerce=True, description="width in pixels")
    kept: bool = pa.Field(description="whether the cell was cut")
    reason: str = pa.Field(
        isin=("", "no data", "band missing", "saturated"), description="why the cell was skipped; empty if it was cut"
    )
    file: str = pa.Field(nullable=True, description="name of the 8-bit RGB PNG; None if the cell was skipped")
    dn_file: str = pa.Field(
        nullable=True, description="name of the GeoTIFF of a calibrated product's DN; None for other products"
    )
    invalid_fraction: float = pa.Field(
        ge=0,
        le=1,
        coerce=True,
        description="share of pixels without data or without a band: exact for decoded cells, estimated from the "
        "overview for others",
    )
    saturated_fraction: float = pa.Field(ge=0, le=1, coerce=True, description="share of pixels saturated in any band")
    stretch_low: object = pa.Field(description="the values of red, green and blue that became 0")
    stretch_high: object = pa.Field(description="the values of red, green and blue that became 255")
    crs: str = pa.Field(nullable=True, description="WKT; None unless position_kind is 'projected'")
    transform: object = pa.Field(
        nullable=True,
        description="the crop's transform, six numbers in the order of affine.Affine; None unless position_kind is "
        "'projected'",
    )
    position_kind: str = pa.Field(
        isin=("projected", "approximate", "pixel"),
        description="origin of the position: the projection, interpolation between the swath's corners, or none",
    )
    longitude: float = pa.Field(
        nullable=True, coerce=True, description="longitude of the crop's centre in degrees east; NaN if unknown"
    )
    latitude: float = pa.Field(
        nullable=True,
        coerce=True,
        description="planetocentric latitude of the crop's centre in degrees; NaN if unknown",
    )
