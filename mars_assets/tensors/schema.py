"""Schema of a tensor stage's manifest."""

import pandera.pandas as pa


class Chips(pa.DataFrameModel):
    """One row per chip of a stage."""

    image_id: str = pa.Field(unique=True, description="identifier of the labelled image")
    file: str = pa.Field(description="path of the chip, relative to the lake")
    height: int = pa.Field(ge=1, coerce=True, description="pixels")
    width: int = pa.Field(ge=1, coerce=True, description="pixels")
    chip_sha: str = pa.Field(description="fingerprint of the chip's inputs: pixels, position on Mars and settings")
