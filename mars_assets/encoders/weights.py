"""Folders of encoders' weights, of any family: their installation and loading.

A folder has ``model.safetensors``, ``config.json`` and ``load_report.json``, as one of Prithvi's weights has, see
:mod:`mars_assets.prithvi.weights`. That of an architecture alone lacks the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mars_assets.checkpoints import read_checkpoint, refuse_mismatch, save_tensors
from mars_assets.encoders.config import EncoderConfig, GalileoConfig, TimmConfig, encoder_config
from mars_assets.encoders.registry import ENCODERS, RANDOM
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.hub import hub_file
from mars_assets.lake import CONFIG, LOAD_REPORT, WEIGHTS, Lake
from mars_assets.prithvi.config import VARIANTS, PrithviConfig
from mars_assets.prithvi.weights import Origin, WeightsSource, install, load_encoder, open_weights
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import atomic_path, read_json, user_path, write_json
from mars_assets.storage.hashing import fingerprint, sha256_file
from mars_assets.storage.published import publish, version_in_use

if TYPE_CHECKING:
    from torch import Tensor

    from mars_assets.encoders.galileo import GalileoEncoder
    from mars_assets.encoders.timm_encoder import TimmEncoder
    from mars_assets.prithvi.model import PrithviEncoder
    from mars_assets.prithvi.weights import LoadReport

    Encoder = PrithviEncoder | GalileoEncoder | TimmEncoder

ASSET = "encoder_weights"


class OpenedEncoder(NamedTuple):
    """A folder of an encoder's weights, which have not been read.

    Args:
        config: architecture, bands and statistics.
        sha256: identifies the weights in provenance: the sha256 of the file that they were loaded from.
        load: loads the encoder, float32 on the CPU, in eval mode.
    """

    config: EncoderConfig
    sha256: str
    load: Callable[[], Encoder]


def open_encoder(folder: Path) -> OpenedEncoder:
    """Read the configuration and the load report of a folder of weights.

    They may be of any family.

    Args:
        folder: of the files, or one in which versions of them are published.

    Raises:
        MissingInputError: it does not exist or is incomplete.
        DamagedFileError: its JSON cannot be read.
        MarsError: its configuration is invalid.
    """
    folder = version_in_use(folder)
    if not (folder / CONFIG).exists() or "family" not in read_json(folder / CONFIG):
        weights = open_weights(folder)
        return OpenedEncoder(weights.config, weights.sha256, lambda: load_encoder(folder))
    if not (folder / LOAD_REPORT).exists():
        raise MissingInputError(ASSET, folder / LOAD_REPORT)
    config = encoder_config(read_json(folder / CONFIG))

    def load() -> Encoder:
        import torch

        if not (folder / WEIGHTS).exists():
            raise MissingInputError(ASSET, folder / WEIGHTS)
        state = read_checkpoint(folder / WEIGHTS)
        encoder = new_encoder(config, meta=True)
        own = encoder.state_dict()
        needed = {key: value.shape for key, value in own.items() if value.is_floating_point()}
        refuse_mismatch(config.variant, needed, state, state.keys() - needed.keys(), state.keys())
        # Copied, since tensors in a mapped file may be unaligned, see prithvi.weights.
        given = {key: value.float().clone() for key, value in state.items()}
        counts = {key: torch.zeros_like(value, device="cpu") for key, value in own.items() if key not in needed}
        encoder.load_state_dict(given | counts, strict=True, assign=True)
        return encoder.eval()

    return OpenedEncoder(config, str(read_json(folder / LOAD_REPORT)["sha256"]), load)


def new_encoder(config: EncoderConfig, meta: bool = False) -> Encoder:
    """Build an encoder with random weights, drawn from torch's generator.

    Args:
        config: the architecture.
        meta: without values, which is quick.
    """
    import torch

    from mars_assets.encoders.galileo import GalileoEncoder
    from mars_assets.encoders.timm_encoder import TimmEncoder
    from mars_assets.prithvi.model import PrithviEncoder

    with torch.device("meta" if meta else torch.get_default_device()):
        if isinstance(config, GalileoConfig):
            return GalileoEncoder(config)
        return TimmEncoder(config) if isinstance(config, TimmConfig) else PrithviEncoder(config)


def shuffle(encoder: Encoder, seed: int) -> Encoder:
    """Put the values of each tensor of an encoder into a random order.

    Only their distribution is left. So are the means and variances that batch norms have recorded.
    """
    import torch

    norms = (module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm2d))
    recorded = (values for norm in norms for values in (norm.running_mean, norm.running_var) if values is not None)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in (*encoder.parameters(), *recorded):
            order = torch.randperm(values.numel(), generator=generator)
            values.copy_(values.flatten()[order].view_as(values))
    return encoder


def is_installed(lake: Lake, name: str) -> bool:
    """Tell whether a published encoder's weights are in the lake."""
    folder = version_in_use(lake.foundation(name))
    return all((folder / file).exists() for file in (WEIGHTS, CONFIG, LOAD_REPORT))


def installed(lake: Lake, name: str) -> Path:
    """Find the folder of a published encoder's weights.

    Raises:
        MissingInputError: they are not installed.
    """
    folder = version_in_use(lake.foundation(name))
    if not is_installed(lake, name):
        config = json.dumps({"ops": {ASSET: {"config": {"encoders": [name]}}}})
        raise MissingInputError(f"{ASSET} --config-json '{config}'", folder / WEIGHTS)
    return folder


def architecture_of(lake: Lake, name: str) -> Path:
    """Find or make the folder of an architecture without weights."""
    config, place = ENCODERS[name].config, lake.foundation(f"{RANDOM.removesuffix(':')}_{name}")
    folder = version_in_use(place)
    if _has(folder, config):
        return folder
    with publish(place) as version:
        write_json(version / CONFIG, _stated(config))
        report = {"variant": name, "source": "architecture", "sha256": fingerprint(_stated(config))}
        write_json(version / LOAD_REPORT, report)
    return version


def install_encoder(lake: Lake, name: str, path: Path | None = None, progress: Progress = SILENT) -> Path:
    """Install the published weights of an encoder in the lake, verified.

    Args:
        lake: where they are installed.
        name: a key of :data:`~mars_assets.encoders.registry.ENCODERS`.
        path: a local copy of the published file; else it is fetched from Hugging Face's hub, unless it is installed.
        progress: takes lines.

    Returns:
        The folder of the version in use.

    Raises:
        MarsError: the file cannot be had, or its tensors are not those of the encoder.
    """
    if name not in ENCODERS:
        raise MarsError(f"no encoder is called {name!r}: choose from {', '.join(ENCODERS)}")
    if name in VARIANTS:
        source: WeightsSource = "sample" if name == "sample" else "huggingface" if path is None else "file"
        return install(lake, Origin(name, source, path), progress)
    published = ENCODERS[name]
    config, folder = published.config, version_in_use(lake.foundation(name))
    there = is_installed(lake, name) and _has(folder, config)
    if there and path is None:
        progress.say(f"weights {name} are already in {folder}")
        return folder
    assert published.repository is not None
    assert published.file is not None
    file = hub_file(published.repository, published.file, None, progress) if path is None else user_path(path)
    progress.say(f"verifying {file}")
    state = read_checkpoint(file)
    sha256 = sha256_file(file)
    if path is None and published.sha256 and sha256 not in published.sha256:
        raise DamagedFileError(
            f"{file} has sha256 {sha256}, but {name} was published as {' or '.join(published.sha256)}: delete the file "
            "from Hugging Face's cache and fetch it again, or use it anyway as a local file"
        )
    if there and read_json(folder / LOAD_REPORT)["sha256"] == sha256:
        progress.say(f"weights {name} are already in {folder}")
        return folder
    try:
        own, report = _taken(config, state)
    except MarsError as error:
        raise MarsError(f"{file}: {error}") from error
    found: dict[str, Any] = {
        "variant": name,
        "parameters": sum(value.numel() for value in own.values()),
        "source": "huggingface" if path is None else "file",
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": sha256,
        "licence": published.licence,
        **asdict(report),
    }
    if path is None:
        found["commit"] = file.parts[file.parts.index("snapshots") + 1]  # the cache has snapshots/COMMIT/NAME
    with publish(lake.foundation(name)) as version:
        progress.say(f"writing {version}")
        with atomic_path(version / WEIGHTS) as temporary:
            save_tensors(own, temporary)
        write_json(version / CONFIG, _stated(config))
        write_json(version / LOAD_REPORT, found)
    return version


def _taken(config: EncoderConfig, published: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], LoadReport]:
    """Take an encoder's weights from the published ones, by the layout of its family."""
    from mars_assets.encoders import galileo, timm_encoder

    if isinstance(config, GalileoConfig):
        return galileo.from_published(config, published)
    assert isinstance(config, TimmConfig)
    return timm_encoder.from_published(config, published)


def _stated(config: EncoderConfig) -> dict[str, Any]:
    """Write a configuration with its family, also where that may be left out."""
    return {"family": PrithviConfig.FAMILY, **config.to_dict()}


def _has(folder: Path, config: EncoderConfig) -> bool:
    """Test whether a folder is of exactly this configuration."""
    if not (folder / CONFIG).exists() or not (folder / LOAD_REPORT).exists():
        return False
    return bool(read_json(folder / CONFIG) == json.loads(json.dumps(_stated(config))))
