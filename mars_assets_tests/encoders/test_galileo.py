"""Galileo's encoder against what the authors' code computes, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, normalize
from mars_assets.checkpoints import read_checkpoint
from mars_assets.encoders.config import GalileoConfig, encoder_config, shown
from mars_assets.encoders.galileo import GalileoEncoder, from_published, resampled_kernel, sincos
from mars_assets.errors import MarsError
from mars_assets.training.augmentation import by_itself

pytestmark = pytest.mark.slow

CASES = [
    *("rgb_64_p8", "rgb_64_p4", "six_64_p8", "six_64_p4", "rgb_96_p8", "rgb_96_p4", "six_96_p8", "rgb_112_p8"),
    *("rgb_112_p4", "rgb_128_p8", "rgb_128_p4", "six_128_p8", "rgb_224_p8", "rgb_224_p4", "six_224_p8"),
    *("rgb_60_p5", "rgb_64_p8_month0_res30"),
]
"""All of the reference but one with removed tokens, which has a test of its own, and one of patches of 16 pixels, with
which Galileo was not trained.
"""


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "data" / "galileo"


@pytest.fixture(scope="module")
def published(folder: Path) -> dict[str, Tensor]:
    return read_checkpoint(folder / "encoder.pt")


@pytest.fixture(scope="module")
def meta(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "meta.json").read_text()))


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, npt.NDArray[np.float32]]:
    return dict(np.load(folder / "reference.npz"))


def loaded(config: GalileoConfig, published: dict[str, Tensor]) -> GalileoEncoder:
    encoder = GalileoEncoder(config)
    encoder.load_state_dict(from_published(config, published)[0], strict=True)
    return encoder.eval()


def chips(case: dict[str, Any]) -> Tensor:
    """The reference's input, normalised as the project's chips are."""
    row, column = np.mgrid[: case["size"], : case["size"]]
    images = [
        [400 + 250 * c + (3 * row**2 + 5 * column**2 + (c + 1) * row * column + 97 * b) % 2003 for c in range(6)]
        for b in range(case["batch"])
    ]
    return torch.from_numpy(normalize(np.asarray(images, np.float64), PRITHVI_V1).astype(np.float32))


def config_of(case: dict[str, Any]) -> GalileoConfig:
    side, seen = case["patch_size"], HLS_BANDS[: 3 if len(case["groups"]) == 1 else 6]
    return GalileoConfig(
        "galileo_nano",
        patch_size=(1, side, side),
        seen=seen,
        metres=case["input_resolution_m"],
        month=case["month"],
    )


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_authors_code_does(
    name: str, meta: dict[str, Any], reference: dict[str, npt.NDArray[np.float32]], published: dict[str, Tensor]
) -> None:
    case = meta["cases"][name]
    with torch.inference_mode():
        tokens = loaded(config_of(case), published)(chips(case)).tokens
    assert tokens.mean(dim=1).numpy() == pytest.approx(reference[f"{name}/pooled"], abs=1e-4)
    if f"{name}/tokens" in reference:
        assert tokens.numpy() == pytest.approx(reference[f"{name}/tokens"].reshape(tokens.shape), abs=1e-4)
    else:
        ends = torch.cat([tokens[:, :2], tokens[:, -2:]], dim=1)
        assert ends.numpy() == pytest.approx(reference[f"{name}/tokens_first2_last2"], abs=1e-4)


def test_maps_are_what_its_blocks_return(
    meta: dict[str, Any], reference: dict[str, npt.NDArray[np.float32]], published: dict[str, Tensor]
) -> None:
    case = meta["cases"]["rgb_64_p8"]
    encoder = loaded(config_of(case), published)
    with torch.inference_mode():
        *inner, last = encoder.features(chips(case), [0, 1, 2, -1])
        tokens = encoder(chips(case)).tokens
    for number, found in enumerate(inner, start=1):
        assert found.flatten(2).mT.numpy() == pytest.approx(reference[f"rgb_64_p8/layer{number}"], abs=1e-4)
    assert torch.equal(last.flatten(2).mT, tokens), "the norm is applied to the last alone"
    with pytest.raises(MarsError, match=r"layers \[4\] do not exist: the encoder has 4 blocks"):
        encoder.features(chips(case), [4])


def test_several_groups_are_averaged_in_maps(meta: dict[str, Any], published: dict[str, Tensor]) -> None:
    case = meta["cases"]["six_64_p8"]
    encoder = loaded(config_of(case), published)
    with torch.inference_mode():
        (found,) = encoder.features(chips(case))
        tokens = encoder(chips(case)).tokens.unflatten(1, (8, 8, 3))
    assert found.permute(0, 2, 3, 1).numpy() == pytest.approx(tokens.mean(dim=3).numpy(), abs=1e-6)


def test_removed_patches_take_no_part(
    meta: dict[str, Any], reference: dict[str, npt.NDArray[np.float32]], published: dict[str, Tensor]
) -> None:
    case = meta["cases"]["rgb_64_p8_masked"]
    encoder, images = loaded(config_of(case), published), chips(case)
    removed = torch.zeros(2, 8, 8)
    removed[0, :, 4:] = 1
    removed[1, :4] = 1
    removed[1, 4, 0] = 1
    for number in range(2):
        gone = removed[number].flatten()[None]
        with torch.inference_mode():
            encoded = encoder(images[number : number + 1], float(gone.sum() / 64), noise=gone + torch.rand(1, 64) / 2)
        assert torch.equal(encoded.mask, gone)
        expected = reference["rgb_64_p8_masked/pooled"][number]
        assert encoded.tokens.mean(dim=1)[0].numpy() == pytest.approx(expected, abs=1e-4)


def test_all_groups_of_a_patch_are_removed_together(published: dict[str, Tensor]) -> None:
    encoder = loaded(GalileoConfig("galileo_nano", seen=HLS_BANDS), published)
    with torch.inference_mode():
        encoded = encoder(torch.randn(2, 6, 64, 48), mask_ratio=0.5)
    assert encoded.tokens.shape == (2, 24 * 3, 128)
    assert encoded.mask.sum(dim=1).tolist() == [24, 24]


def test_fixed_tables(
    reference: dict[str, npt.NDArray[np.float32]], meta: dict[str, Any], published: dict[str, Tensor]
) -> None:
    assert sincos(torch.zeros(1), 32)[0].numpy() == pytest.approx(reference["time_embed_t0"], abs=1e-6)
    kernel = published["space_time_embed.S2_RGB.proj.weight"]
    assert resampled_kernel(kernel, 4).numpy() == pytest.approx(reference["S2_RGB_kernel_p4"], abs=1e-5)
    encoder = loaded(config_of(meta["cases"]["rgb_64_p8"]), published)
    for month in range(12):
        encoder.config = GalileoConfig("galileo_nano", month=month)
        encoder._places.clear()
        told = encoder._told((8, 8), torch.device("cpu"))[:, 0].numpy()
        assert told[0, 64:96] == pytest.approx(reference["month_embed"][month], abs=1e-6)
        assert told[:, 96:] == pytest.approx(reference["space_embed_8x8_scale8"], abs=1e-5)


def test_a_chip_that_is_normalised_by_itself_is_shown_as_if_it_were_of_the_earth() -> None:
    """Its mean and deviation become those that the encoder's own normalisation gives to its own images."""
    config = shown(GalileoConfig("galileo_nano"), "image")
    assert isinstance(config, GalileoConfig)
    chip = by_itself(torch.randn(6, 64, 64) * 3 + 1)
    own = GalileoEncoder(config).own_input(chip[None])
    assert own.mean(dim=(2, 3)).numpy() == pytest.approx(0.5, abs=1e-5)
    assert own.std(dim=(2, 3)).numpy() == pytest.approx(0.25, rel=0.1)


def test_weights_are_accounted_for(published: dict[str, Tensor], folder: Path) -> None:
    rgb, six = GalileoConfig("galileo_nano"), GalileoConfig("galileo_nano_hls", seen=HLS_BANDS)
    for config, groups in ((rgb, 1), (six, 3)):
        state, report = from_published(config, published)
        assert len(report.loaded) + len(report.recomputed) + len(report.unused) == len(published)
        assert sum("space_time_embed" in key for key in report.loaded) == 2 * groups
        assert not report.missing
        converted, of_few = from_published(config, read_checkpoint(folder / "galileo_nano_hls.safetensors"))
        assert all(torch.equal(converted[key], state[key]) for key in state)
        assert not [key for key in of_few.unused if "S1" in key], "the conversion has HLS's groups alone"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.bias"), "norm.bias is missing"),
        (lambda state: state.pop("blocks.2.attn.k.weight"), "blocks.2.attn.k.weight is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not a key of this architecture"),
        (lambda state: state.update({"space_time_embed.S9.proj.bias": torch.zeros(1)}), "S9.proj.bias is not a key"),
        (lambda state: state.update({"norm.bias": torch.zeros(4)}), r"norm.bias has shape \(4,\), but the arch"),
        (lambda state: state["norm.bias"].fill_(torch.nan), "norm.bias has values that are not finite"),
        (lambda state: state.update({"norm.bias": torch.zeros(128, dtype=torch.long)}), "int64, not floating"),
    ],
)
def test_other_weights_are_refused(change: Any, message: str, published: dict[str, Tensor]) -> None:
    state = {key: value.clone() for key, value in published.items()}
    change(state)
    with pytest.raises(MarsError, match=message):
        from_published(GalileoConfig("galileo_nano"), state)


def test_another_size_is_refused(published: dict[str, Tensor]) -> None:
    with pytest.raises(MarsError, match="do not match 'galileo_tiny'"):
        from_published(GalileoConfig("galileo_tiny", embed_dim=192, depth=12, num_heads=3), published)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": (1, 16, 16)}, "square patches of 1 to 8 pixels"),
        ({"patch_size": (1, 8, 4)}, "square patches"),
        ({"seen": ("GREEN", "RED")}, "whole groups in this order: BLUE, GREEN, RED; NIR_NARROW; SWIR_1, SWIR_2"),
        ({"seen": ()}, "whole groups"),
        ({"seen": ("RED", "GREEN", "BLUE")}, "whole groups"),
        ({"embed_dim": 100}, "multiple of 16 and of its 8 heads"),
        ({"bands": HLS_BANDS[:3]}, "its chips need the bands"),
        ({"normalize": "colour"}, "neither statistics nor image"),
    ],
)
def test_what_it_cannot_do_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MarsError, match=message):
        GalileoConfig("x", **fields)


def test_images_that_do_not_fit_are_refused() -> None:
    encoder = GalileoEncoder(GalileoConfig("galileo_nano"))
    with pytest.raises(MarsError, match=r"patches of 8 x 8 do not divide an input of 60 x 64 .* pad it to 64 x 64"):
        encoder(torch.zeros(1, 6, 60, 64))
    with pytest.raises(MarsError, match=r"takes \(B, 6, H, W\), bands BLUE, .*; this input has shape \(1, 3, 64, 64\)"):
        encoder(torch.zeros(1, 3, 64, 64))
    with pytest.raises(MarsError, match="mask_ratio=1"):
        encoder(torch.zeros(1, 6, 64, 64), mask_ratio=1.0)


def test_its_configuration_is_written_and_read() -> None:
    config = GalileoConfig("galileo_base_hls", embed_dim=768, depth=12, num_heads=12, seen=HLS_BANDS, normalize="image")
    assert encoder_config(json.loads(json.dumps(config.to_dict()))) == config
    for change in ({"depth": None}, {"further": 1}):
        values = {key: value for key, value in {**config.to_dict(), **change}.items() if value is not None}
        with pytest.raises(MarsError, match=r"of galileo, or unknown: (depth|further)"):
            encoder_config(values)
    with pytest.raises(MarsError, match="unknown family of encoders 'clay'"):
        encoder_config({"family": "clay"})


def test_every_weight_that_is_seen_has_a_gradient() -> None:
    encoder = GalileoEncoder(GalileoConfig("galileo_nano", patch_size=(1, 4, 4), seen=HLS_BANDS))
    encoder(torch.randn(2, 6, 32, 32)).tokens.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
