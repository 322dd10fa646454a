"""The published variants against their manifests' index, and what a configuration refuses."""

import dataclasses
import json
from pathlib import Path

import pytest

from mars_assets.bands import PRITHVI_V1, PRITHVI_V2
from mars_assets.errors import MarsError
from mars_assets.prithvi.config import VARIANTS, PrithviConfig

PUBLISHED = [name for name, variant in VARIANTS.items() if variant.repository]


@pytest.mark.parametrize("name", PUBLISHED)
def test_architecture_and_address_are_the_published_ones(shared: Path, name: str) -> None:
    published = json.loads((shared / "parity" / "manifests" / "_index.json").read_text())[f"prithvi_eo_{name}"]
    variant = VARIANTS[name]
    fields = dataclasses.asdict(variant.config)
    for field in (
        "img_size", "num_frames", "in_chans", "embed_dim", "depth", "num_heads", "decoder_embed_dim", "decoder_depth",
        "decoder_num_heads", "mlp_ratio", "mask_ratio", "norm_pix_loss",
    ):  # fmt: skip
        assert fields[field] == published[field], field
    assert list(variant.config.patch_size) == published["patch_size"]
    assert list(variant.config.bands) == published["bands"]
    assert list(variant.config.grid) == published["grid_size"]
    assert variant.config.statistics.means == pytest.approx(published["mean"], abs=0.5)
    assert variant.config.statistics.stds == pytest.approx(published["std"], abs=0.5)
    if published["hf"] is not None:
        assert {"hf_hub_id": variant.repository, "hf_hub_filename": variant.file} == published["hf"]


def test_statistics_travel_with_the_variant() -> None:
    assert VARIANTS["v1_100"].config.statistics == VARIANTS["sample"].config.statistics == PRITHVI_V1
    assert {VARIANTS[name].config.statistics for name in PUBLISHED if name != "v1_100"} == {PRITHVI_V2}
    assert VARIANTS["sample"].repository is None


@pytest.mark.parametrize("name", VARIANTS)
def test_json_round_trip(name: str) -> None:
    config = VARIANTS[name].config
    assert PrithviConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_problem_is_listed() -> None:
    bands = ("BLUE", "GREN", "RED", "RED", "SWIR_1")
    with pytest.raises(MarsError) as error:
        PrithviConfig("x", bands=bands, embed_dim=100, patch_size=(1, 15, 16), mask_ratio=1.0)
    for part in (
        "'GREN'",
        "NIR_NARROW",
        "5 bands for in_chans=6",
        "contain duplicates",
        "embed_dim=100",
        "15",
        "mask_ratio=1.0",
    ):
        assert part in str(error.value)


def test_bands_as_integers_are_refused() -> None:
    with pytest.raises(MarsError, match="unknown bands"):
        PrithviConfig("x", bands=(1, 2, 3, 4, 5, 6))  # type: ignore[arg-type]


def test_json_with_other_fields_is_refused() -> None:
    values = VARIANTS["sample"].config.to_dict()
    with pytest.raises(MarsError, match=r"unknown fields.*depht"):
        PrithviConfig.from_dict({**values, "depht": 1})
    del values["depth"]
    with pytest.raises(MarsError, match=r"missing.*depth"):
        PrithviConfig.from_dict(values)
