"""The schema of the table of labelled crops."""

import pandas as pd
import pandera.pandas as pa

from mars_assets.labels.formats.image import SPLITS


class LabelledCrops(pa.DataFrameModel):
    """One row for each labelled image: its pixels, its class or craters, its split and where it comes from."""

    image_id: str = pa.Field(
        unique=True, description="name and content of the source: the same image keeps it across label versions"
    )
    project: str = pa.Field(description="the Roboflow project, or those that labelled the same image, joined by '+'")
    split: str = pa.Field(isin=SPLITS, description="train, valid or test: as exported, but all of a group in one")
    exported_split: str | None = pa.Field(isin=SPLITS, description="as exported")
    observation: str = pa.Field(
        nullable=True, description="the HiRISE observation that the image's name begins with, if any"
    )
    group: str = pa.Field(description="what must not straddle splits: the observation, else the original name")
    original: str = pa.Field(description="the name it was uploaded under")
    origin: str = pa.Field(
        isin=("crop", "export"), description="'crop': the lake's own lossless crop; 'export': the image in the zip"
    )
    file: str = pa.Field(description="the pixels, relative to the lake")
    height: int = pa.Field(ge=1, coerce=True, description="pixels")
    width: int = pa.Field(ge=1, coerce=True, description="pixels")
    label: str = pa.Field(
        nullable=True, isin=("crater", "no_crater"), description="crater or no_crater where the image was classified"
    )
    n_craters: pd.Int32Dtype = pa.Field(
        nullable=True,
        ge=0,
        coerce=True,
        description="outlined craters where the image was segmented (0 is a labelled negative)",
    )
    crater_fraction: float = pa.Field(
        nullable=True, ge=0, le=1, coerce=True, description="share of pixels inside craters"
    )
    labels_sha: str = pa.Field(description="of the label itself: changes when somebody corrects it")
    outlines_sha: str | None = pa.Field(
        nullable=True, description="of the outlines alone, which the masks show; None where there are none"
    )
    pixels_sha: str = pa.Field(description="sha256 of the file")
    phash: str | None = pa.Field(description="perceptual hash: images that look the same differ in few of its 64 bits")
