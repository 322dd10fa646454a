"""Configurations of encoders: architecture, bands, and how images are shown.

Whatever an encoder was trained on, it is given chips as Prithvi is: six bands of HLS, normalised with Prithvi's
statistics, and it turns these into its own input. So a chip is computed, cached and augmented in one way for all.

This module does not import torch, so that definitions and recipes may import it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, BandStatistics, Float32
from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig

GALILEO_GROUPS = {
    "S2_RGB": ("BLUE", "GREEN", "RED"),
    "S2_NIR_20m": ("NIR_NARROW",),
    "S2_SWIR": ("SWIR_1", "SWIR_2"),
}
"""The groups of Sentinel-2's bands that are HLS's, each a token of a patch, by their names in Galileo's weights."""

SENTINEL_2 = BandStatistics(
    "galileo",
    (
        1395.3408730676722,
        1338.4026921784578,
        1343.09883810357,
        2750.2854646886753,
        2234.911100061487,
        1474.5311266077113,
    ),
    (
        917.7041440370853,
        913.2988423581528,
        1092.678723527555,
        1204.472755085893,
        1145.9774063078878,
        980.2429840007796,
    ),
)
"""Published with Galileo: of reflectance at the top of the atmosphere x 10000, of the bands that are HLS's."""


@dataclass(frozen=True)
class GalileoConfig:
    """The architecture of Galileo's encoder, and what it is told of an image.

    Args:
        variant: name of the weights.
        patch_size: frames, rows and columns of a patch. It was trained with sides of 1 to 8 pixels, and its embedding
            is resampled to any of them.
        embed_dim: width of a token, a multiple of 16 and of the heads.
        depth: number of blocks.
        num_heads: heads of attention.
        seen: the bands that it sees, whole groups of :data:`GALILEO_GROUPS` in their order; the others, which are
            imputed from these for most images, are left out.
        metres: size of a pixel that it is told. It was trained with 10.
        month: 0 to 11, which it is told.
        normalize: how chips are normalised, see :mod:`mars_assets.training.recipe`.
        bands: names of the input channels.
        statistics: with which chips are normalised.

    Raises:
        MarsError: fields contradict each other. All problems are listed.
    """

    variant: str
    patch_size: tuple[int, int, int] = (1, 8, 8)
    embed_dim: int = 128
    depth: int = 4
    num_heads: int = 8
    seen: tuple[str, ...] = ("BLUE", "GREEN", "RED")
    metres: float = 10.0
    month: int = 5
    normalize: str = "statistics"
    bands: tuple[str, ...] = HLS_BANDS
    statistics: BandStatistics = PRITHVI_V1

    FAMILY: ClassVar[str] = "galileo"
    has_class_token: ClassVar[bool] = False
    is_transformer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        problems = []
        frames, rows, columns = self.patch_size
        if frames != 1 or rows != columns or not 1 <= rows <= 8:
            problems.append(f"patch_size={self.patch_size}: it was trained with square patches of 1 to 8 pixels")
        if self.embed_dim % 16 or self.embed_dim % self.num_heads:
            problems.append(f"embed_dim={self.embed_dim} must be a multiple of 16 and of its {self.num_heads} heads")
        grouped = tuple(band for name in self.groups for band in GALILEO_GROUPS[name])
        if not self.seen or self.seen != grouped:
            groups = "; ".join(", ".join(bands) for bands in GALILEO_GROUPS.values())
            problems.append(f"it cannot see the bands {self.seen} alone, but whole groups in this order: {groups}")
        _refuse(self, problems)

    @property
    def in_chans(self) -> int:
        """Number of channels of a chip."""
        return len(self.bands)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of bands that it sees."""
        return tuple(name for name, bands in GALILEO_GROUPS.items() if set(bands) <= set(self.seen))

    def scale_and_offset(self) -> tuple[Float32, Float32]:
        """Compute what turns seen bands of a chip into the encoder's input.

        It was trained on ``(DN - (mean - 2 std)) / (4 std)`` with the statistics of its own images. A chip that is
        normalised by itself is shown as if these statistics were the chip's own.

        Returns:
            A factor and a summand for each band, float32 of shape (bands, 1, 1).
        """
        places = [HLS_BANDS.index(band) for band in self.seen]
        if self.normalize == "image":
            return np.full((len(places), 1, 1), 0.25, np.float32), np.full((len(places), 1, 1), 0.5, np.float32)
        mean, std = (np.asarray(values)[places] for values in (self.statistics.means, self.statistics.stds))
        own_mean, own_std = (np.asarray(values)[places] for values in (SENTINEL_2.means, SENTINEL_2.stds))
        scale, offset = std / (4 * own_std), (mean - own_mean + 2 * own_std) / (4 * own_std)
        return scale.astype(np.float32)[:, None, None], offset.astype(np.float32)[:, None, None]

    def to_dict(self) -> dict[str, Any]:
        return {"family": self.FAMILY, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class TimmConfig:
    """A model of timm that was trained on pictures in red, green and blue.

    Args:
        variant: name of the weights.
        model: timm's name of the architecture.
        patch_size: frames, rows and columns of a patch; ones for a convolutional network.
        embed_dim: width of the last map.
        depth: number of blocks, or of a convolutional network's stages.
        has_class_token: whether the first token is the image's.
        means: of a picture, from 0 to 1, in red, green and blue, with which it was normalised.
        stds: the deviations.
        stretched: whether a picture was made grey, and stretched from its darkest to its lightest pixel.
        normalize: how chips are normalised, see :mod:`mars_assets.training.recipe`.
        bands: names of the input channels.
        statistics: with which chips are normalised.

    Raises:
        MarsError: fields contradict each other. All problems are listed.
    """

    variant: str
    model: str
    patch_size: tuple[int, int, int]
    embed_dim: int
    depth: int
    has_class_token: bool
    means: tuple[float, ...]
    stds: tuple[float, ...]
    stretched: bool = False
    normalize: str = "statistics"
    bands: tuple[str, ...] = HLS_BANDS
    statistics: BandStatistics = PRITHVI_V1

    FAMILY: ClassVar[str] = "timm"
    seen: ClassVar[tuple[str, ...]] = ("RED", "GREEN", "BLUE")

    def __post_init__(self) -> None:
        problems = []
        if len(self.means) != 3 or len(self.stds) != 3 or min(self.stds, default=0.0) <= 0:
            problems.append("it needs a mean and a positive deviation each for red, green and blue")
        _refuse(self, problems)

    @property
    def in_chans(self) -> int:
        """Number of channels of a chip."""
        return len(self.bands)

    @property
    def is_transformer(self) -> bool:
        """Whether it has tokens, all of one resolution, of which some can be left out."""
        return self.patch_size[1] > 1

    def scale_and_offset(self) -> tuple[Float32, Float32]:
        """Compute what turns red, green and blue of a chip into its input.

        A chip holds the reflectance to which 8 bits were scaled, and is taken back to 0 to 1. One that is normalised by
        itself already has the mean and deviation that a normalised picture has on average. Where pictures were
        stretched, the result is still to be stretched and normalised.

        Returns:
            A factor and a summand for each channel, float32 of shape (3, 1, 1).
        """
        if self.normalize == "image":
            return np.ones((3, 1, 1), np.float32), np.zeros((3, 1, 1), np.float32)
        places = [HLS_BANDS.index(band) for band in self.seen]
        mean, std = (np.asarray(values)[places] for values in (self.statistics.means, self.statistics.stds))
        scale, offset = std / (mean + 2 * std), mean / (mean + 2 * std)
        if not self.stretched:
            scale, offset = scale / np.asarray(self.stds), (offset - np.asarray(self.means)) / np.asarray(self.stds)
        return scale.astype(np.float32)[:, None, None], offset.astype(np.float32)[:, None, None]

    def to_dict(self) -> dict[str, Any]:
        return {"family": self.FAMILY, **dataclasses.asdict(self)}


EncoderConfig = PrithviConfig | GalileoConfig | TimmConfig

_FAMILIES: dict[str, type[GalileoConfig] | type[TimmConfig]] = {
    family.FAMILY: family for family in (GalileoConfig, TimmConfig)
}


def _refuse(config: GalileoConfig | TimmConfig, problems: Sequence[str]) -> None:
    """Refuse a configuration that has problems, or other chips than there are.

    Raises:
        MarsError: it does.
    """
    problems = list(problems)
    if config.bands != HLS_BANDS:
        problems.append(f"its chips need the bands {', '.join(HLS_BANDS)}")
    if config.normalize not in ("statistics", "image"):
        problems.append(f"normalize={config.normalize!r} is neither statistics nor image")
    if problems:
        raise MarsError(f"configuration of {config.variant!r}: " + "; ".join(problems))


def encoder_config(values: Mapping[str, Any]) -> EncoderConfig:
    """Read the configuration of an encoder of any family.

    It inverts their ``to_dict``.

    Raises:
        MarsError: the family or a field is unknown, a field is missing, or the values contradict each other.
    """
    values = dict(values)
    name = values.pop("family", PrithviConfig.FAMILY)
    if name == PrithviConfig.FAMILY:
        return PrithviConfig.from_dict(values)
    if name not in _FAMILIES:
        raise MarsError(f"unknown family of encoders {name!r}: a later version of this project may have written it")
    family = _FAMILIES[name]
    if values.keys() != (known := {field.name for field in dataclasses.fields(family)}):
        odd = ", ".join(sorted(values.keys() ^ known))
        raise MarsError(f"fields missing from a configuration of {name}, or unknown: {odd}")
    read: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value for field, value in values.items()
    }
    return family(**read | {"statistics": BandStatistics.from_dict(values["statistics"])})


def trained_encoder(config: Mapping[str, Any]) -> EncoderConfig:
    """Read the configuration of a model's encoder from its ``config.json``."""
    return encoder_config(config["encoder"] if "encoder" in config else config["prithvi"])


def shown(config: EncoderConfig, normalize: str) -> EncoderConfig:
    """Tell an encoder how the chips that it is given are normalised."""
    return config if isinstance(config, PrithviConfig) else dataclasses.replace(config, normalize=normalize)
