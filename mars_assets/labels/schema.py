"""Schema of the table of labelled crops."""

import pandas as pd
import pandera.pandas as pa

from mars_assets.labels.formats.image import SPLITS


class LabelledCrops(pa.DataFrameModel):
    """One row per labelled image: image file, class or craters, split and source."""

    image_id: str = pa.Field(
        unique=True, description="identifier from the source's name and content; the same across label versions"
    )
    project: str = pa.Field(description="the Roboflow project; several that labelled the same image are joined by '+'")
    split: str = pa.Field(isin=SPLITS, description="train, valid or test: as exported, but one split for each group")
    exported_split: str | None = pa.Field(isin=SPLITS, description="train, valid or test, as exported")
    observation: str = pa.Field(
        nullable=True, description="the HiRISE observation whose id the image's name contains, if any"
    )
    group: str = pa.Field(description="images that must share a split: the observation, otherwise the original name")
    original: str = pa.Field(description="the name under which the image was uploaded")
    origin: str = pa.Field(
        isin=("crop", "export"), description="'crop': the lake's own lossless crop; 'export': the image in the zip"
    )
    file: str = pa.Field(description="path of the image file, relative to the lake")
    height: int = pa.Field(ge=1, coerce=True, description="pixels")
    width: int = pa.Field(ge=1, coerce=True, description="pixels")
    label: str = pa.Field(
        nullable=True, isin=("crater", "no_crater"), description="crater or no_crater, if the image was classified"
    )
    n_craters: pd.Int32Dtype = pa.Field(
        nullable=True,
        ge=0,
        coerce=True,
        description="number of outlined craters, if the image was segmented (0: labelled as having none)",
    )
    crater_fraction: float = pa.Field(
        nullable=True, ge=0, le=1, coerce=True, description="share of pixels inside craters"
    )
    labels_sha: str = pa.Field(description="fingerprint of the label, which changes when it is corrected")
    outlines_sha: str | None = pa.Field(
        nullable=True, description="fingerprint of the outlines that the masks show; None without outlines"
    )
    pixels_sha: str = pa.Field(description="sha256 of the image file; of that and a mark if EXIF turns it")
    phash: str | None = pa.Field(description="perceptual hash: images that look the same differ in few of its 64 bits")
