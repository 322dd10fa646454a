"""Synthetic scenes as HiRISE files.

These are a COLOR JP2 with PDS3 label, and an RGB browse JPEG.

The formats are those of the archive, including the single tile, the ten bits and the slanted swath. The observations
are not: their orbits, 990000 and up, were never flown, and label, JP2 and JPEG each state that they are synthetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from mars_assets.imagery.crops import rgb_composite, to_8bit
from mars_assets.imagery.products import parse_observation_id, product_files
from mars_assets.sample.terrain import Scene, stretch_limits
from mars_assets.storage.files import atomic_path, write_bytes

FIRST_ORBIT = 990000
"""MRO will have flown fewer than 100,000 orbits by 2030, so no real observation has such a number."""

NOTE = "SYNTHETIC: computed terrain in the format of a HiRISE product. This is not an image of Mars"

CORE_NULL, LOWEST, HIGHEST = 0, 3, 1021
"""The DN for no data, and the range of valid DN; 1, 2, 1022 and 1023 mean saturation."""

METRES = 0.5
"""Size of a pixel on the ground in metres."""

BROWSE_WIDTH = 512
_DAMAGED_SHARE = 0.01
"""The share of rows at the top of a browse product that have only RED.

The other detectors start later (76 of 7589 rows in a real product).
"""

_SLANT = math.tan(math.radians(2.5))


@dataclass(frozen=True)
class MapPosition:
    """The position of a map-projected product.

    The projection is equirectangular on a sphere with the local radius, like that of HiRISE's products below 65 degrees
    latitude.

    Args:
        center_latitude: latitude of true scale, a multiple of 5 degrees.
        radius: radius of the sphere in metres.
        left, top: projected coordinates of the outer corner of the first pixel, in pixels east and north of (180 E,
            equator).
    """

    center_latitude: float
    radius: float
    left: int
    top: int

    @classmethod
    def at(cls, latitude: float, longitude: float) -> MapPosition:
        """Find the position whose upper left corner is nearest to a location.

        Args:
            latitude: planetocentric, degrees.
            longitude: degrees east.
        """
        center = 5.0 * round(latitude / 5)
        equator, pole = 3396190.0, 3376200.0
        phi = math.radians(center)
        radius = equator * pole / math.hypot(equator * math.sin(phi), pole * math.cos(phi))
        x = radius * math.radians(longitude - 180) * math.cos(phi)
        y = radius * math.radians(latitude)
        return cls(center, radius, round(x / METRES), round(y / METRES))

    @classmethod
    def of_observation(cls, observation: str, longitude: float) -> MapPosition:
        """Position a synthetic observation.

        The latitude follows from its target code.

        On the day side, the orbit angle from the descending node is the latitude plus 180 degrees.
        """
        return cls.at(parse_observation_id(observation).target / 10 - 180, longitude)

    @property
    def pixels_per_degree(self) -> float:
        """Compute the pixels per degree of latitude."""
        return math.radians(1) * self.radius / METRES

    def latitude(self, row: float) -> float:
        """Compute the planetocentric latitude of a row's upper edge in degrees."""
        return (self.top - row) / self.pixels_per_degree

    def longitude(self, column: float) -> float:
        """Compute the longitude of a column's left edge in degrees east, 0..360."""
        scale = self.pixels_per_degree * math.cos(math.radians(self.center_latitude))
        return (180 + (self.left + column) / scale) % 360

    @property
    def crs(self) -> str:
        """Compose the coordinate reference system as a PROJ string."""
        return (
            f"+proj=eqc +lat_ts={self.center_latitude:g} +lat_0=0 +lon_0=180 +x_0=0 +y_0=0 +R={self.radius:.10f} "
            "+units=m +no_defs"
        )


def swath(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Compute the mask of a map-projected product's data.

    It is a rectangle rotated by the orbit's inclination, inside the rectangle of the map.
    """
    y, x = np.ogrid[:height, :width]
    left = _SLANT * (height - y)
    right = width - _SLANT * y
    # The ends are perpendicular to the sides.
    top, bottom = _SLANT * x, height - _SLANT * (width - x)
    return np.asarray((x >= left) & (x < right) & (y >= top) & (y < bottom))


def write_products(archive: Path, scene: Scene, longitude: float) -> None:
    """Write an observation's products into an archive tree.

    They are the COLOR product, its label and the RGB browse product.

    Args:
        archive: root of the tree, which contains ``RDR`` and ``EXTRAS``.
        scene: the rendered scene; its ground truth is not written here.
        longitude: its assumed longitude in degrees east. The latitude follows from the observation's target code.
    """
    observation = scene.spec.observation
    position = MapPosition.of_observation(observation, longitude)
    valid = swath(*scene.iof.shape[1:])
    # I/F = DN * scale + offset, rounded as in a label, maps the valid DN to the range of the image.
    low, high = float(scene.iof[:, valid].min()), float(scene.iof[:, valid].max())
    scale = float(f"{(high - low) * 1.0001 / (HIGHEST - LOWEST):.10e}")
    offset = float(f"{low - LOWEST * scale:.10f}")
    dn = np.clip(np.rint((scene.iof - offset) / scale), LOWEST, HIGHEST).astype(np.uint16)
    color = product_files(observation, "COLOR")
    assert color.label is not None
    _write_jp2(archive / color.image, np.where(valid, dn, np.uint16(CORE_NULL)), position)
    write_bytes(archive / color.label, _label(scene, position, scale, offset).encode("ascii"))
    _write_browse(archive / product_files(observation, "RGB.NOMAP.browse").image, scene)


def _write_jp2(path: Path, dn: npt.NDArray[np.uint16], position: MapPosition) -> None:
    """Write a lossless ten-bit JP2 in a single tile.

    It has precincts and packet lengths.

    HiRISE's own files have the same layout.
    """
    import rasterio

    bands, height, width = dn.shape
    with (
        atomic_path(path) as temporary,
        rasterio.Env(GDAL_PAM_ENABLED=False),
        rasterio.open(
            temporary,
            "w",
            driver="JP2OpenJPEG",
            height=height,
            width=width,
            count=bands,
            dtype="uint16",
            crs=position.crs,
            transform=rasterio.Affine(METRES, 0, position.left * METRES, 0, -METRES, position.top * METRES),
            BLOCKXSIZE=width,
            BLOCKYSIZE=height,
            NBITS=10,
            REVERSIBLE="YES",
            QUALITY=100,
            YCC="NO",
            PLT="YES",
            PROGRESSION="RPCL",
            PRECINCTS="{256,256},{256,256},{128,128}",
            RESOLUTIONS=6,
            WRITE_METADATA="YES",
        ) as file,
    ):
        file.update_tags(NOTE=NOTE)
        file.write(dn)


def _write_browse(path: Path, scene: Scene) -> None:
    """Write RED, BG and synthetic blue, stretched.

    The product is not map projected, so it has no margins.
    """
    height, width = scene.iof.shape[1:]
    size = (BROWSE_WIDTH, round(height * BROWSE_WIDTH / width))
    bands = [np.asarray(Image.fromarray(band).resize(size, Image.Resampling.BOX)) for band in scene.iof]
    rgb = rgb_composite("COLOR", np.stack(bands, axis=-1))
    low, high = stretch_limits(rgb)
    pixels = to_8bit(rgb, low.tolist(), high.tolist())
    pixels[: math.ceil(_DAMAGED_SHARE * len(pixels)), :, 1:] = 0
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, "JPEG", quality=90, subsampling=0, comment=NOTE)


def _label(scene: Scene, position: MapPosition, scale: float, offset: float) -> str:
    """Compose a PDS3 label of a synthetic scene.

    Its statements are those of a real COLOR label that apply.
    """
    spec = scene.spec
    observation, product = spec.observation, f"{spec.observation}_COLOR"
    bands, lines, samples = scene.iof.shape
    return f"""PDS_VERSION_ID            = PDS3
/* {NOTE}. */
NOTE                      = "{NOTE}."
/* Identification Information */
NOT_APPLICABLE_CONSTANT   = -9998
DATA_SET_ID               = "SYNTHETIC-MRO-M-HIRISE-3-RDR-V1.1"
DATA_SET_NAME             = "SYNTHETIC TERRAIN IN THE FORMAT OF MRO HIRISE RDR V1.1"
PRODUCER_FULL_NAME        = "MARS_ASSETS.SAMPLE"
OBSERVATION_ID            = "{observation}"
PRODUCT_ID                = "{product}"
PRODUCT_VERSION_ID        = "1.0"
INSTRUMENT_HOST_NAME      = "MARS RECONNAISSANCE ORBITER"
INSTRUMENT_HOST_ID        = "MRO"
INSTRUMENT_NAME           = "HIGH RESOLUTION IMAGING SCIENCE EXPERIMENT"
INSTRUMENT_ID             = "HIRISE"
TARGET_NAME               = "MARS"
MISSION_PHASE_NAME        = "EXTENDED SCIENCE PHASE"
ORBIT_NUMBER              = {parse_observation_id(observation).orbit}
RATIONALE_DESC            = "Synthetic terrain with known craters"
SOFTWARE_NAME             = "mars_assets.sample"
OBJECT = IMAGE_MAP_PROJECTION
    ^DATA_SET_MAP_PROJECTION     = "DSMAP.CAT"
    MAP_PROJECTION_TYPE          = "EQUIRECTANGULAR"
    PROJECTION_LATITUDE_TYPE     = PLANETOCENTRIC
    A_AXIS_RADIUS                = {position.radius / 1000:.10f} <KM>
    B_AXIS_RADIUS                = {position.radius / 1000:.10f} <KM>
    C_AXIS_RADIUS                = {position.radius / 1000:.10f} <KM>
    COORDINATE_SYSTEM_NAME       = PLANETOCENTRIC
    POSITIVE_LONGITUDE_DIRECTION = EAST
    KEYWORD_LATITUDE_TYPE        = PLANETOCENTRIC
    CENTER_LATITUDE              = {position.center_latitude:.3f} <DEG>
    CENTER_LONGITUDE             = 180.000 <DEG>
    LINE_FIRST_PIXEL             = 1
    LINE_LAST_PIXEL              = {lines}
    SAMPLE_FIRST_PIXEL           = 1
    SAMPLE_LAST_PIXEL            = {samples}
    MAP_PROJECTION_ROTATION      = 0.0 <DEG>
    MAP_RESOLUTION               = {position.pixels_per_degree:.8f} <PIX/DEG>
    MAP_SCALE                    = {METRES} <METERS/PIXEL>
    MAXIMUM_LATITUDE             = {position.latitude(0):.12f} <DEG>
    MINIMUM_LATITUDE             = {position.latitude(lines):.12f} <DEG>
    LINE_PROJECTION_OFFSET       = {position.top - 0.5} <PIXEL>
    SAMPLE_PROJECTION_OFFSET     = {-position.left - 0.5} <PIXEL>
    EASTERNMOST_LONGITUDE        = {position.longitude(samples):.12f} <DEG>
    WESTERNMOST_LONGITUDE        = {position.longitude(0):.12f} <DEG>
END_OBJECT = IMAGE_MAP_PROJECTION
GROUP = TIME_PARAMETERS
    START_TIME                   = "UNK"
    STOP_TIME                    = "UNK"
    PRODUCT_CREATION_TIME        = "UNK"
END_GROUP = TIME_PARAMETERS
GROUP = VIEWING_PARAMETERS
    INCIDENCE_ANGLE   = {spec.incidence:.6f} <DEG>
    EMISSION_ANGLE    = 0.000000 <DEG>
    PHASE_ANGLE       = {spec.incidence:.6f} <DEG>
    /* Clockwise from the direction of increasing samples. */
    SUB_SOLAR_AZIMUTH = {(spec.sun_azimuth - 90) % 360:.6f} <DEG>
    NORTH_AZIMUTH     = 270.000000 <DEG>
END_GROUP = VIEWING_PARAMETERS

/* The JPEG2000 image data file associated with this label. */
OBJECT = COMPRESSED_FILE
    FILE_NAME                  = "{product}.JP2"
    RECORD_TYPE                = UNDEFINED
    ENCODING_TYPE              = "JP2"
    ENCODING_TYPE_VERSION_NAME = "ISO/IEC15444-1:2004"
    INTERCHANGE_FORMAT         = BINARY
    UNCOMPRESSED_FILE_NAME     = "{product}.IMG"
    REQUIRED_STORAGE_BYTES     = {2 * bands * lines * samples} <BYTES>
END_OBJECT = COMPRESSED_FILE

/* The source image data definition. */
OBJECT = UNCOMPRESSED_FILE
    FILE_NAME    = "{product}.IMG"
    RECORD_TYPE  = FIXED_LENGTH
    RECORD_BYTES = {2 * samples} <BYTES>
    FILE_RECORDS = {bands * lines}
    ^IMAGE       = "{product}.IMG"
    OBJECT = IMAGE
        DESCRIPTION                = "Synthetic terrain, map projected"
        LINES                      = {lines}
        LINE_SAMPLES               = {samples}
        BANDS                      = {bands}
        SAMPLE_TYPE                = MSB_UNSIGNED_INTEGER
        SAMPLE_BITS                = 16
        SAMPLE_BIT_MASK            = 2#0000001111111111#
        /* NOTE: The conversion from DN to I/F (intensity/flux) is: */
        /* I/F = (DN * SCALING_FACTOR) + OFFSET                     */
        SCALING_FACTOR             = {scale:.10e}
        OFFSET                     = {offset:.10f}
        BAND_STORAGE_TYPE          = BAND_SEQUENTIAL
        CORE_NULL                  = {CORE_NULL}
        CORE_LOW_REPR_SATURATION   = 1
        CORE_LOW_INSTR_SATURATION  = 2
        CORE_HIGH_REPR_SATURATION  = 1023
        CORE_HIGH_INSTR_SATURATION = 1022
        CENTER_FILTER_WAVELENGTH   = (900 <NM>, 700 <NM>, 500 <NM>)
        MRO:MINIMUM_STRETCH        = {LOWEST}
        MRO:MAXIMUM_STRETCH        = {HIGHEST}
        FILTER_NAME                = ("NEAR-INFRARED", "RED", "BLUE-GREEN")
        BAND_NAME                  = ("NEAR-INFRARED", "RED", "BLUE-GREEN")
    END_OBJECT = IMAGE
END_OBJECT = UNCOMPRESSED_FILE
END
"""
