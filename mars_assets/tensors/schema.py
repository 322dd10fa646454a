"""The schema of a tensor stage's manifest."""

import pandera.pandas as pa


class Chips(pa.DataFrameModel):
    """One row for each chip of a stage."""

    image_id: str = pa.Field(unique=True, description="the labelled image")
    file: str = pa.Field(description="the chip, relative to the lake")
    height: int = pa.Field(ge=1, coerce=True, description="pixels")
    width: int = pa.Field(ge=1, coerce=True, description="pixels")
    chip_sha: str = pa.Field(
        description="fingerprint of the pixels, the place on Mars and the settings it was computed from"
    )
