"""Published encoders: their installation, what a training starts from, and controls without what was learnt."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch

from mars_assets.classification.recipe import ClsRecipe
from mars_assets.encoders.config import GalileoConfig
from mars_assets.encoders.registry import ENCODERS, base_name, require_known
from mars_assets.encoders.weights import (
    architecture_of,
    install_encoder,
    installed,
    is_installed,
    new_encoder,
    open_encoder,
    shuffle,
)
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.lake import Lake
from mars_assets.models.starting_point import initial_encoder, start_from_weights
from mars_assets.prithvi.config import VARIANTS
from mars_assets.progress import Progress
from mars_assets.storage.files import read_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.training.compute import Compute
from mars_assets_tests.hub_server import Hub, serving

pytestmark = pytest.mark.slow

NANO, PERMUTED = "galileo_nano", "shuffled:mars_weights"


@pytest.fixture(scope="module")
def file(shared: Path) -> Path:
    return shared / "data" / "galileo" / "encoder.pt"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path) -> Iterator[type[Hub]]:
    with serving(file, tmp_path / "hub", monkeypatch):
        yield Hub


def test_every_encoder_is_described() -> None:
    assert ENCODERS.keys() >= VARIANTS.keys()
    for name, published in ENCODERS.items():
        assert published.config.variant == name
        assert all((published.trained_on, published.licence, published.publication))
        assert (published.repository is None) == (name == "sample")
        if name in VARIANTS or isinstance(published.config, GalileoConfig):
            assert len(new_encoder(published.config, meta=True).blocks) == published.config.depth


@pytest.mark.parametrize(
    "name",
    ["prithvi_weights", "random", NANO, f"random:{NANO}", f"shuffled:{NANO}", "v2_300", PERMUTED],
)
def test_names_that_recipes_may_use(name: str) -> None:
    assert require_known(name) == name
    assert ":" not in base_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("galileo_nan", "no encoder is called 'galileo_nan': .*galileo_nano"),
        ("random:x", "no encoder is called 'random:x'"),
        ("random:mars_weights", "no encoder is called"),
        ("shuffled:random", "no encoder"),
        ("", "no encoder is called ''"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(MarsError, match=message):
        require_known(name)


def test_installed_from_a_file(lake: Lake, file: Path) -> None:
    said: list[str] = []
    with pytest.raises(MissingInputError, match=r"--select encoder_weights --config-json .*galileo_nano"):
        installed(lake, NANO)
    folder = install_encoder(lake, NANO, file, Progress(said.append))
    assert installed(lake, NANO) == folder
    assert install_encoder(lake, NANO, file, Progress(said.append)) == folder
    assert "already" in said[-1]
    report = read_json(folder / "load_report.json")
    assert (report["sha256"], report["source"]) == (sha256_file(file), "file")
    assert report["sha256"] in ENCODERS[NANO].sha256
    assert report["licence"] == "MIT"
    opened = open_encoder(folder)
    assert opened.config == ENCODERS[NANO].config
    encoder = opened.load()
    assert report["parameters"] == sum(p.numel() for p in encoder.parameters())
    assert not encoder.training


def test_another_file_replaces_it(lake: Lake, file: Path) -> None:
    before = install_encoder(lake, NANO, file.with_name("galileo_nano_hls.safetensors"))
    after = install_encoder(lake, NANO, file)
    assert after != before
    first, second = (open_encoder(folder).load().state_dict() for folder in (before, after))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_installed_from_the_hub(lake: Lake, hub: type[Hub]) -> None:
    folder = install_encoder(lake, NANO)
    report = read_json(folder / "load_report.json")
    assert (report["commit"], report["source"]) == (Hub.commit, "huggingface")
    requests = len(hub.authorisation)
    assert install_encoder(lake, NANO) == folder
    assert len(hub.authorisation) == requests, "it is there"


def test_content_that_was_not_published_is_refused(lake: Lake, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENCODERS, NANO, dataclasses.replace(ENCODERS[NANO], sha256=("0" * 64,)))
    with pytest.raises(DamagedFileError, match="was published as 0000"):
        install_encoder(lake, NANO)
    assert not is_installed(lake, NANO)


def test_a_file_of_another_size_is_refused(lake: Lake, file: Path) -> None:
    with pytest.raises(MarsError, match=r"encoder\.pt: the weights do not match 'galileo_tiny'"):
        install_encoder(lake, "galileo_tiny", file)
    assert not is_installed(lake, "galileo_tiny")


def test_offline(lake: Lake, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MarsError, match=r"models/nano/encoder\.pt of .*nasaharvest/galileo.* cannot be reached"):
        install_encoder(lake, NANO)


def test_prithvis_variants_are_installed_as_ever(lake: Lake) -> None:
    folder = install_encoder(lake, "sample")
    assert open_encoder(folder).config == VARIANTS["sample"].config
    assert start_from_weights(lake, "sample").folder == folder


def test_damaged_weights_are_refused(lake: Lake, file: Path) -> None:
    folder = install_encoder(lake, NANO, file)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    with pytest.raises(DamagedFileError):
        open_encoder(folder).load()
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match="encoder_weights"):
        start_from_weights(lake, NANO)


def recipe(encoder: str) -> ClsRecipe:
    return ClsRecipe(encoder=encoder, normalize="image")


def values(lake: Lake, encoder: str, seed: int) -> torch.Tensor:
    start = start_from_weights(lake, encoder)
    built = initial_encoder(recipe(encoder), start.folder, Compute("cpu", "fp32", 1, seed))
    assert isinstance(built.config, GalileoConfig)
    assert built.config.normalize == "image"
    return torch.cat([parameter.detach().flatten() for parameter in built.parameters()])


def test_controls_have_the_architecture_and_no_more(lake: Lake, file: Path) -> None:
    """Random weights are the seed's; shuffled ones have the published values, tensor by tensor, in another order."""
    random = f"random:{NANO}"
    assert torch.equal(values(lake, random, 1), values(lake, random, 1)), "and the weights need not be there"
    assert not torch.equal(values(lake, random, 1), values(lake, random, 2))
    with pytest.raises(MissingInputError, match="encoder_weights"):
        values(lake, f"shuffled:{NANO}", 1)
    install_encoder(lake, NANO, file)
    published, shuffled = values(lake, NANO, 1), values(lake, f"shuffled:{NANO}", 1)
    assert torch.equal(values(lake, NANO, 1), values(lake, NANO, 2))
    assert torch.equal(shuffled, values(lake, f"shuffled:{NANO}", 1))
    assert not torch.equal(shuffled, values(lake, f"shuffled:{NANO}", 2))
    assert (shuffled != published).float().mean() > 0.9
    assert torch.equal(shuffled.sort().values, published.sort().values)


def test_shuffling_stays_within_a_tensor(lake: Lake, file: Path) -> None:
    encoder = open_encoder(install_encoder(lake, NANO, file)).load()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    for name, value in shuffle(encoder, 3).state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name


def test_what_batch_norms_recorded_is_shuffled_too() -> None:
    encoder = new_encoder(ENCODERS["resnet18.a1_in1k"].config)
    norm = next(module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert norm.running_mean is not None
    norm.running_mean.copy_(torch.arange(64.0))
    shuffle(encoder, 1)
    assert norm.running_mean.sort().values.tolist() == list(range(64))
    assert norm.running_mean.tolist() != list(range(64))


def test_the_architecture_of_prithvi_needs_no_weights(lake: Lake) -> None:
    folder = architecture_of(lake, "v2_tiny_tl")
    assert architecture_of(lake, "v2_tiny_tl") == folder
    start = start_from_weights(lake, "random:v2_tiny_tl")
    assert start.statistics == VARIANTS["v2_tiny_tl"].config.statistics
    built = initial_encoder(recipe("random:v2_tiny_tl"), start.folder, Compute("cpu", "fp32", 1, 0))
    assert built.config == VARIANTS["v2_tiny_tl"].config
