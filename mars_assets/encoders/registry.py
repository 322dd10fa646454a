"""The published encoders, by the names that recipes use.

This module does not import torch, so that definitions and recipes may import it.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass

from mars_assets.bands import HLS_BANDS
from mars_assets.encoders.config import EncoderConfig, GalileoConfig, TimmConfig
from mars_assets.errors import MarsError
from mars_assets.lake import WEIGHTS
from mars_assets.prithvi.config import VARIANTS

OF_ASSETS = ("prithvi_weights", "mars_weights", "random")
"""Names that stand for what an asset has in use, and for random weights of ``prithvi_weights``' architecture."""
RANDOM, SHUFFLED = "random:", "shuffled:"
"""In front of the name of an encoder: its architecture with random weights, and its weights without their order."""


@dataclass(frozen=True)
class PublishedEncoder:
    """An encoder whose weights somebody has published.

    Args:
        config: architecture, bands and statistics.
        trained_on: in a few words.
        licence: of the weights.
        publication: where it is described.
        repository: on Hugging Face; None for weights that are in this package.
        file: its path there.
        sha256: contents known to have been published as ``file``; empty if none is known.
    """

    config: EncoderConfig
    trained_on: str
    licence: str
    publication: str
    repository: str | None = None
    file: str | None = None
    sha256: tuple[str, ...] = ()


def _prithvis() -> dict[str, PublishedEncoder]:
    v1, v2 = ("arXiv:2310.18660", "arXiv:2412.02732")
    return {
        name: PublishedEncoder(
            variant.config,
            *(
                ("synthetic terrain", "that of this package", "this package")
                if variant.repository is None
                else ("HLS images of the Earth", "Apache-2.0", v1 if name.startswith("v1") else v2)
            ),
            variant.repository,
            variant.file,
            variant.sha256,
        )
        for name, variant in VARIANTS.items()
    }


def _galileos() -> dict[str, PublishedEncoder]:
    sizes = {
        "nano": (GalileoConfig("galileo_nano"), ("eab6acacf527886a508a555bc24efe4b4a2cf91b162e84cd1c4a1807e942180c",)),
        "tiny": (GalileoConfig("galileo_tiny", embed_dim=192, depth=12, num_heads=3), ()),
        "base": (GalileoConfig("galileo_base", embed_dim=768, depth=12, num_heads=12), ()),
    }
    return {
        config.variant: PublishedEncoder(
            config,
            "images of the Earth by many sensors",
            "MIT",
            "arXiv:2502.09356",
            "nasaharvest/galileo",
            f"models/{size}/encoder.pt",
            sha256,
        )
        for size, (rgb, sha256) in sizes.items()
        for config in (rgb, dataclasses.replace(rgb, variant=f"{rgb.variant}_hls", seen=HLS_BANDS))
    }


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IN1K, _IN21K = "photographs (ImageNet-1k)", "photographs (ImageNet-21k)"
_CNN = (1, 1, 1)


def _of_timm() -> dict[str, PublishedEncoder]:
    """Describe models of timm, by its names."""
    vit, cls = (1, 16, 16), True
    described = {
        "vit_tiny_patch16_224.augreg_in21k": (vit, 192, 12, cls, _HALF, _IN21K, "arXiv:2106.10270"),
        "vit_small_patch16_224.augreg_in21k": (vit, 384, 12, cls, _HALF, _IN21K, "arXiv:2106.10270"),
        "vit_base_patch16_224.augreg_in21k": (vit, 768, 12, cls, _HALF, _IN21K, "arXiv:2106.10270"),
        "vit_small_patch16_224.dino": (vit, 384, 12, cls, _IMAGENET, f"{_IN1K}, no labels", "arXiv:2104.14294"),
        "vit_small_patch14_dinov2.lvd142m": (
            *((1, 14, 14), 384, 12, cls, _IMAGENET, "photographs (LVD-142M), no labels", "arXiv:2304.07193"),
        ),
        "resnet18.a1_in1k": (_CNN, 512, 4, False, _IMAGENET, _IN1K, "arXiv:2110.00476"),
        "resnet50.a1_in1k": (_CNN, 2048, 4, False, _IMAGENET, _IN1K, "arXiv:2110.00476"),
        "convnext_tiny.fb_in22k": (_CNN, 768, 4, False, _IMAGENET, _IN21K, "arXiv:2201.03545"),
    }
    return {
        name: PublishedEncoder(
            TimmConfig(name, name.partition(".")[0], patch, width, depth, class_token, *normalised),
            *(seen, "Apache-2.0", publication, f"timm/{name}", WEIGHTS),  # by its usual name there, too
        )
        for name, (patch, width, depth, class_token, normalised, seen, publication) in described.items()
    }


def _momos() -> dict[str, PublishedEncoder]:
    sizes = {"small": (384, 12), "base": (768, 12), "large": (1024, 24)}
    seen = {
        "hirise": "HiRISE images of Mars",
        "ctx": "CTX images of Mars",
        "themis": "THEMIS images of Mars",
        "hirise_ctx_themis": "images of Mars by three sensors",
        "momo": "images of Mars, three encoders merged",
    }
    return {
        f"momo_{size}_{file}": PublishedEncoder(
            TimmConfig(
                *(f"momo_{size}_{file}", f"vit_{size}_patch16_224", (1, 16, 16), width, depth, True, *_IMAGENET),
                stretched=True,
            ),
            *(what, "CC BY 4.0", "MOMO, Mirali33/MOMO", "Mirali33/MOMO", f"vit-{size[0]}-16/{file}.pth"),
        )
        for size, (width, depth) in sizes.items()
        for file, what in seen.items()
    }


ENCODERS: dict[str, PublishedEncoder] = _prithvis() | _galileos() | _of_timm() | _momos()
"""Prithvi's variants. Galileo's sizes, which see the three bands of a picture, or with ``_hls`` all six of a chip.

Models of timm, by its names. MOMO's, by their size and what they were trained on.
"""


def base_name(encoder: str) -> str:
    """Return the name of an encoder without what is in front of it."""
    return encoder.removeprefix(RANDOM).removeprefix(SHUFFLED)


def is_drawn(encoder: str) -> bool:
    """Test whether an encoder's weights depend on a seed.

    Random and shuffled ones do.
    """
    return encoder == "random" or encoder.startswith((RANDOM, SHUFFLED))


def require_known(encoder: str) -> str:
    """Check the name of an encoder in a recipe, and return it.

    Raises:
        MarsError: no encoder has it.
    """
    if encoder in OF_ASSETS or base_name(encoder) in ENCODERS:
        return encoder
    if encoder.startswith(SHUFFLED) and encoder.removeprefix(SHUFFLED) in OF_ASSETS[:2]:
        return encoder
    similar = difflib.get_close_matches(base_name(encoder), [*OF_ASSETS, *ENCODERS], 3) or [*OF_ASSETS, "galileo_nano"]
    raise MarsError(
        f"no encoder is called {encoder!r}: choose {', '.join(OF_ASSETS)}, or one of `mars-assets encoders`, such as "
        f"{', '.join(similar)}, or of these with {RANDOM} or {SHUFFLED} in front"
    )
