"""Writing by GDAL."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars_assets.errors import MarsError
from mars_assets.storage.files import shown

if TYPE_CHECKING:
    import pandas as pd


def write_layer(path: Path, frame: pd.DataFrame, target: Path, **options: Any) -> None:
    """Write a layer, or a table without geometry.

    Args:
        path: the file, perhaps a temporary one.
        frame: a GeoDataFrame or a DataFrame.
        target: the file that errors name.
        options: of ``pyogrio.write_dataframe``.

    Raises:
        MarsError: GDAL cannot write it, such as to a full disk, or the folder's name is not UTF-8.
    """
    import pyogrio

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")  # of images without a projection
            pyogrio.write_dataframe(frame, path, **options)
    except UnicodeEncodeError as error:
        raise MarsError(f"{shown(target)} cannot be written, since its name is not UTF-8: rename the folder") from error
    except RuntimeError as error:  # the base of pyogrio's errors
        raise MarsError(
            f"{target} cannot be written by GDAL ({error}): check the space on the disk and the limit of a file's size "
            "(ulimit -f), and run again"
        ) from error
