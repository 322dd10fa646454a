"""Prithvi's configuration.

It has architecture, bands, statistics and published variants.

This module does not import torch, so that definitions and recipes may import it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, PRITHVI_V2, BandStatistics
from mars_assets.errors import MarsError


@dataclass(frozen=True)
class PrithviConfig:
    """The architecture and preprocessing that belong to a set of weights.

    Args:
        variant: a key of ``VARIANTS``, or the name of weights derived from one.
        img_size: image height and width in pixels for the published position tables.
        num_frames: number of frames for the published position tables; the model accepts any number.
        patch_size: frames, rows and columns of a patch.
        in_chans: input channels, one per band.
        embed_dim, depth, num_heads: dimensions of the encoder.
        decoder_embed_dim, decoder_depth, decoder_num_heads: dimensions of the decoder.
        mlp_ratio: ratio of the hidden width of a block's MLP to its embedding width.
        layer_norm_eps: 1e-6 in NASA-IMPACT's training and inference code, 1e-5 in TerraTorch and hls-foundation-os.
        mask_ratio: share of the patches removed in pretraining.
        norm_pix_loss: whether pretraining normalised the target patch by patch.
        bands: names of the input channels, in order.
        statistics: statistics that normalise the input. The model never applies them; the caller does.

    Raises:
        MarsError: fields contradict each other, or a band is unknown. All problems are listed.
    """

    variant: str
    img_size: int = 224
    num_frames: int = 1
    patch_size: tuple[int, int, int] = (1, 16, 16)
    in_chans: int = 6
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False
    bands: tuple[str, ...] = HLS_BANDS
    statistics: BandStatistics = PRITHVI_V1

    FAMILY: ClassVar[str] = "prithvi"
    has_class_token: ClassVar[bool] = True
    is_transformer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        problems = []
        if unknown := [band for band in self.bands if band not in HLS_BANDS]:
            problems.append(f"unknown bands {unknown}: choose from {', '.join(HLS_BANDS)}")
        if len(self.bands) != self.in_chans:
            problems.append(f"{len(self.bands)} bands for in_chans={self.in_chans}")
        if len(set(self.bands)) != len(self.bands):
            problems.append(f"bands {self.bands} contain duplicates")
        if len(self.patch_size) != 3 or min(self.patch_size) < 1:
            problems.append(f"patch_size={self.patch_size} is not (frames, rows, columns)")
        elif self.num_frames % self.patch_size[0] or any(self.img_size % side for side in self.patch_size[1:]):
            problems.append(f"patch_size={self.patch_size} does not divide {self.num_frames} x {self.img_size}²")
        for name, width, heads in (
            ("embed_dim", self.embed_dim, self.num_heads),
            ("decoder_embed_dim", self.decoder_embed_dim, self.decoder_num_heads),
        ):
            if width % heads or width % 16:
                problems.append(f"{name}={width} must be a multiple of 16 and of its {heads} heads")
        if not 0 <= self.mask_ratio < 1:
            problems.append(f"mask_ratio={self.mask_ratio} is not in [0, 1)")
        if problems:
            raise MarsError(f"configuration of {self.variant!r}: " + "; ".join(problems))

    @property
    def grid(self) -> tuple[int, int, int]:
        """Count the patches of the published position tables: (frames, rows, columns)."""
        frames, rows, columns = self.patch_size
        return self.num_frames // frames, self.img_size // rows, self.img_size // columns

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrithviConfig:
        """Invert :meth:`to_dict`.

        Raises:
            MarsError: a field is unknown or missing, or the values contradict each other.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise MarsError(f"unknown fields in a Prithvi configuration: {', '.join(unknown)}")
        if missing := sorted(known - set(values)):
            raise MarsError(f"fields missing from a Prithvi configuration: {', '.join(missing)}")
        return cls(
            **{
                **values,
                "patch_size": tuple(values["patch_size"]),
                "bands": tuple(values["bands"]),
                "statistics": BandStatistics.from_dict(values["statistics"]),
            }
        )


@dataclass(frozen=True)
class Variant:
    """A configuration and the address of its published weights.

    Args:
        config: the architecture.
        repository: repository on Hugging Face; None for the weights included in this package.
        file: name of the file in that repository.
        sha256: all contents known to have been published as ``file``; empty if none is known.
    """

    config: PrithviConfig
    repository: str | None = None
    file: str | None = None
    sha256: tuple[str, ...] = ()


def _v2(name: str, repository: str, file: str, **architecture: Any) -> Variant:
    config = PrithviConfig(variant=name, statistics=PRITHVI_V2, **{"num_frames": 4, **architecture})
    return Variant(config, f"ibm-nasa-geospatial/{repository}", file)


_300: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_600: dict[str, Any] = {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": (1, 14, 14)}
_TINY: dict[str, Any] = {"embed_dim": 192, "depth": 12, "num_heads": 3, "num_frames": 1}

VARIANTS: dict[str, Variant] = {
    "v1_100": Variant(
        PrithviConfig(variant="v1_100", num_frames=3),
        "ibm-nasa-geospatial/Prithvi-EO-1.0-100M",
        "Prithvi_EO_V1_100M.pt",
        (
            "7fac0c8a8693198e32a055e0c5a967f8b005f382182b63df1b29fdcd5c880731",
            # The older Prithvi_100M.pt with flat keys, which was served under the newer name for a while.
            "69f8ac286f649d1bbed520f5c8560a60eba91d688f74e1a0f9aa8203b6fd62ab",
        ),
    ),
    "v2_300": _v2("v2_300", "Prithvi-EO-2.0-300M", "Prithvi_EO_V2_300M.pt", **_300),
    "v2_300_tl": _v2("v2_300_tl", "Prithvi-EO-2.0-300M-TL", "Prithvi_EO_V2_300M_TL.pt", **_300),
    "v2_600": _v2("v2_600", "Prithvi-EO-2.0-600M", "Prithvi_EO_V2_600M.pt", **_600),
    "v2_600_tl": _v2("v2_600_tl", "Prithvi-EO-2.0-600M-TL", "Prithvi_EO_V2_600M_TL.pt", **_600),
    "v2_100_tl": _v2("v2_100_tl", "Prithvi-EO-2.0-100M-TL", "Prithvi_EO_V2_100M_TL.pt"),
    "v2_tiny_tl": _v2("v2_tiny_tl", "Prithvi-EO-2.0-tiny-TL", "Prithvi_EO_V2_tiny_TL.pt", **_TINY),
    "sample": Variant(
        PrithviConfig(variant="sample", **_TINY, decoder_embed_dim=128, decoder_depth=2, decoder_num_heads=4)
    ),
}
"""The published variants, and ``sample``: a tiny one pretrained on synthetic terrain, included in this package."""
