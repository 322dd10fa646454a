"""Models of timm and MOMO's as encoders, against timm's own output and against manifests."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, impute, normalize, scale_to_reflectance
from mars_assets.checkpoints import read_checkpoint
from mars_assets.encoders.config import TimmConfig, encoder_config, shown
from mars_assets.encoders.registry import ENCODERS
from mars_assets.encoders.timm_encoder import TimmEncoder, from_published
from mars_assets.encoders.weights import install_encoder, open_encoder
from mars_assets.errors import MarsError
from mars_assets.lake import Lake

pytestmark = pytest.mark.slow

OF_TIMM = [name for name, published in ENCODERS.items() if (published.repository or "").startswith("timm/")]
MOMOS = [name for name in ENCODERS if name.startswith("momo_")]
TINY, RESNET = "vit_tiny_patch16_224.augreg_in21k", "resnet18.a1_in1k"


def config_of(name: str) -> TimmConfig:
    config = ENCODERS[name].config
    assert isinstance(config, TimmConfig)
    return config


def pictures(number: int, side: int) -> tuple[Tensor, Tensor]:
    """Pictures, float (B, 3, H, W) from 0 to 1 in red, green and blue, and the chips that the lake makes of them."""
    generator = torch.Generator().manual_seed(1)
    rgb = torch.randint(0, 256, (number, side, side, 3), dtype=torch.uint8, generator=generator)
    chips = [normalize(impute(scale_to_reflectance(each.numpy()), "post_norm"), PRITHVI_V1) for each in rgb]
    return rgb.permute(0, 3, 1, 2) / 255, torch.stack([torch.from_numpy(chip) for chip in chips])


@pytest.mark.parametrize("name", OF_TIMM)
def test_it_is_described_as_timm_describes_it(name: str) -> None:
    """timm has the statistics, the licence and the address, and the architecture has the sizes."""
    published, config = ENCODERS[name], config_of(name)
    theirs = timm.get_pretrained_cfg(name)
    assert (published.repository, published.licence.lower()) == (theirs.hf_hub_id, theirs.license)
    assert (config.means, config.stds) == (theirs.mean, theirs.std)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    assert config.embed_dim == model.num_features
    if config.is_transformer:
        assert config.patch_size[1:] == tuple(model.patch_embed.patch_size)
        assert config.depth == len(model.blocks)
        assert config.has_class_token == (model.cls_token is not None)
        assert model.num_prefix_tokens == 1


@pytest.mark.parametrize("name", [TINY, RESNET, "vit_small_patch14_dinov2.lvd142m", "convnext_tiny.fb_in22k"])
def test_it_computes_what_timm_does_of_the_picture(name: str) -> None:
    config = config_of(name)
    torch.manual_seed(0)
    encoder = TimmEncoder(config).eval()
    rgb, chips = pictures(2, 56 if "14" in name else 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.means, config.stds))
    with torch.inference_mode():
        expected = encoder.model.forward_features((rgb - mean) / std)
        found = encoder(chips).tokens
    expected = expected if config.is_transformer else expected.flatten(2).mT
    assert found.numpy() == pytest.approx(expected.numpy(), abs=2e-4)
    assert encoder_config(json.loads(json.dumps(config.to_dict()))) == config


def test_maps_are_timms_intermediates() -> None:
    torch.manual_seed(0)
    encoder = TimmEncoder(config_of(TINY)).eval()
    _, chips = pictures(2, 64)
    with torch.inference_mode():
        inner, last = encoder.features(chips, [5, -1])
        theirs = encoder.model.forward_intermediates(
            encoder.own_input(chips), indices=[5], intermediates_only=True, norm=False
        )
        tokens = encoder(chips).tokens
    assert inner.numpy() == pytest.approx(theirs[0].numpy(), abs=1e-5)
    assert torch.equal(last.flatten(2).mT, tokens[:, 1:])
    with pytest.raises(MarsError, match=r"layers \[12\] do not exist"):
        encoder.features(chips, [12])
    with pytest.raises(MarsError, match="maps of several resolutions"):
        TimmEncoder(config_of(RESNET)).features(chips)


def test_masked_patches_take_no_part() -> None:
    """What is in them changes nothing."""
    torch.manual_seed(0)
    encoder = TimmEncoder(config_of(TINY)).eval()
    _, chips = pictures(1, 64)
    noise = torch.arange(16.0)[None]
    changed = chips.clone()
    changed[:, :, 32:] = 0.3
    with torch.inference_mode():
        first, second = encoder(chips, 0.5, noise), encoder(changed, 0.5, noise)
    assert torch.equal(first.tokens, second.tokens)
    assert first.tokens.shape == (1, 1 + 8, 192)
    assert first.mask[0].tolist() == [0.0] * 8 + [1.0] * 8
    for name, ratio in ((RESNET, 0.5), (TINY, 1.0)):
        with pytest.raises(MarsError, match="mask_ratio"):
            TimmEncoder(config_of(name))(chips, ratio)


def test_what_does_not_fit_is_refused() -> None:
    encoder = TimmEncoder(config_of(TINY))
    with pytest.raises(MarsError, match="patches of 16 x 16 do not divide an input of 60 x 64"):
        encoder(torch.zeros(1, 6, 60, 64))
    with pytest.raises(MarsError, match=r"this input has shape \(1, 3, 64, 64\)"):
        encoder(torch.zeros(1, 3, 64, 64))
    for change, message in (({"stds": (0.0, 1.0, 1.0)}, "a positive deviation"), ({"bands": HLS_BANDS[:3]}, "bands")):
        with pytest.raises(MarsError, match=message):
            TimmConfig(**{**vars(config_of(TINY)), **change})


def test_momo_sees_each_picture_grey_and_stretched() -> None:
    config = shown(config_of("momo_small_hirise"), "image")
    assert isinstance(config, TimmConfig)
    encoder = TimmEncoder(config)
    rgb, chips = pictures(3, 32)
    for normalized in (config, shown(config, "statistics")):
        encoder.config = normalized  # type: ignore[assignment]
        seen = encoder.own_input(chips)
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.means, config.stds))
        grey = seen * std + mean
        assert torch.equal(grey.amin(dim=(2, 3)).round(decimals=5), torch.zeros(3, 3))
        assert torch.equal(grey.amax(dim=(2, 3)).round(decimals=5), torch.ones(3, 3))
        assert torch.allclose(grey[:, 0], grey[:, 1], atol=1e-6)
    ours = rgb.mean(dim=1)
    low, high = ours.amin(dim=(1, 2), keepdim=True), ours.amax(dim=(1, 2), keepdim=True)
    assert torch.allclose(grey[:, 0], (ours - low) / (high - low), atol=1e-4)
    flat = encoder.own_input(torch.zeros(1, 6, 32, 32))
    assert flat.isfinite().all()


@pytest.mark.parametrize("kind", ["", ".combined_loss"])
@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_momos_weights_are_accounted_for(size: str, kind: str, shared: Path) -> None:
    """Against manifests of the authors' autoencoders, since the files cannot be had here."""
    folder = shared / "parity" / "momo"
    manifest, encoder = (
        json.loads((folder / f"vit-{size[0]}-16{suffix}.json").read_text()) for suffix in (kind, ".encoder")
    )
    config = config_of(f"momo_{size}_momo")
    with torch.device("meta"):
        own = TimmEncoder(config).model.state_dict()
    assert {key: list(value.shape) for key, value in own.items()} == {
        key: shape_of(value) for key, value in encoder.items()
    }
    state = {key: torch.zeros(()).expand(shape_of(value)) for key, value in manifest.items()}
    _, report = from_published(config, state)
    assert set(report.loaded) == set(encoder)
    assert set(report.loaded) | set(report.unused) == set(state)


def shape_of(described: Any) -> list[int]:
    return list(described[0]) if described and isinstance(described[0], list) else list(described)


def test_momos_files_are_read_without_running_code(tmp_path: Path) -> None:
    """They have the options of the training beside the weights."""
    torch.save({"model": {"x": torch.ones(2)}, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "momo.pth")
    assert read_checkpoint(tmp_path / "momo.pth").keys() == {"x"}


@pytest.mark.parametrize("name", [TINY, RESNET])
def test_installed_and_opened(name: str, tmp_path: Path, lake: Lake) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name.partition(".")[0], num_classes=10)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    folder = install_encoder(lake, name, tmp_path / "model.safetensors")
    encoder = open_encoder(folder).load()
    report = json.loads((folder / "load_report.json").read_text())
    head = "fc" if name == RESNET else "head"
    assert {f"{head}.weight", f"{head}.bias"} <= set(report["unused"])
    _, chips = pictures(1, 224)
    with torch.inference_mode():
        expected = model.eval().forward_features(encoder.own_input(chips))  # type: ignore[operator]
        found = encoder(chips).tokens
    expected = expected if name == TINY else expected.flatten(2).mT
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_other_weights_are_refused() -> None:
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    with pytest.raises(MarsError, match=r"do not match 'vit_tiny_patch16_224\.augreg_in21k'"):
        from_published(config_of(TINY), state)
    state.pop("bn1.running_mean")
    with pytest.raises(MarsError, match=r"bn1\.running_mean is missing"):
        from_published(config_of(RESNET), state)
