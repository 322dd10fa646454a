"""Tables with the column names of Robbins and Hynek's catalogue of Mars.

See Robbins and Hynek 2012, doi 10.1029/2011JE003966.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mars_assets.craters.crater_map import CraterMap
from mars_assets.storage.files import write_csv

_SAID_THEIR_WAY = ["crater_id", "longitude", "latitude", "diameter_m", "axis_ratio", "angle"]


def write_robbins_csv(target: Path, crater_map: CraterMap) -> None:
    """Write the craters of a scene as CSV, see :func:`robbins_table`."""
    write_csv(target, robbins_table(crater_map.craters))


def robbins_table(craters: pd.DataFrame) -> pd.DataFrame:
    """Name and convert columns as the catalogue has them, those that it lacks last.

    As there, longitudes are east from -180 to 180, diameters are in kilometres, ellipticity is major over minor axis.
    The angle is clockwise from north. The axes are those of the ellipse with the circle's area. Without a projection,
    what concerns the ground is empty.
    """
    ratio = craters["axis_ratio"]
    kilometres = craters["diameter_m"] / 1000
    theirs = pd.DataFrame(
        {
            "CRATER_ID": craters["crater_id"],
            "LATITUDE_CIRCLE_IMAGE": craters["latitude"],
            "LONGITUDE_CIRCLE_IMAGE": (craters["longitude"] + 180) % 360 - 180,
            "DIAM_CIRCLE_IMAGE": kilometres,
            "DIAM_ELLIPSE_MAJOR_IMAGE": kilometres / np.sqrt(ratio),
            "DIAM_ELLIPSE_MINOR_IMAGE": kilometres * np.sqrt(ratio),
            "DIAM_ELLIPSE_ECCEN_IMAGE": np.sqrt(1 - ratio**2),
            "DIAM_ELLIPSE_ELLIP_IMAGE": 1 / ratio,
            "DIAM_ELLIPSE_ANGLE_IMAGE": craters["angle"],
        }
    )
    return pd.concat([theirs, craters.drop(columns=_SAID_THEIR_WAY)], axis=1)
