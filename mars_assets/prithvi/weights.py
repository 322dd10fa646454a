"""Download, loading and storage of weights, with an account of every key.

A folder of weights contains ``model.safetensors`` (the published layout, keys prefixed ``encoder.`` and ``decoder.``),
``config.json`` (:class:`PrithviConfig`) and ``load_report.json`` (source, sha256 and how each key was used).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

from mars_assets.checkpoints import few, read_checkpoint, refuse_mismatch, save_tensors, storable
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.hub import hub_file
from mars_assets.lake import CONFIG, LOAD_REPORT, WEIGHTS, Lake
from mars_assets.prithvi.config import VARIANTS, PrithviConfig
from mars_assets.progress import SILENT, Progress
from mars_assets.storage.files import atomic_path, read_json, user_path, write_json
from mars_assets.storage.hashing import sha256_file
from mars_assets.storage.published import publish, version_in_use

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mars_assets.prithvi.model import PrithviEncoder, PrithviMAE

Network = TypeVar("Network", bound="nn.Module")

WeightsSource = Literal["huggingface", "file", "sample"]
Layout = Literal["prefixed", "flat", "published"]

SAMPLE = Path(__file__).parent.parent / "sample" / "weights"

_COMPILED = "_orig_mod."
"""What torch.compile adds to keys, in front or after the name of a compiled part."""
_PREFIXES = ("encoder.", "decoder.")
_TABLES = {"encoder.pos_embed", "decoder.decoder_pos_embed"}
_FLAT_DECODER = ("decoder_", "mask_token", "temporal_embed_dec.", "location_embed_dec.")


@dataclass(frozen=True)
class LoadReport:
    """The use of every key of a file and of a model. Keys are in the prefixed layout.

    Args:
        layout: layout of the file's keys; ``published`` for architectures that have one.
        loaded: keys loaded from the file.
        recomputed: keys of fixed position tables, which are computed instead of loaded.
        unused: keys in the file that are not needed: coordinate scales of TL variants, the decoder if only the encoder
            is loaded, and those that a model's wrapper adds, as they stand in the file.
        missing: keys that are needed but not in the file. Loading fails unless this is empty.
        notes: remarks about the file, one sentence each.
    """

    layout: Layout
    loaded: tuple[str, ...]
    recomputed: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_mae(config: PrithviConfig, state: Mapping[str, Tensor]) -> tuple[PrithviMAE, LoadReport]:
    """Build the autoencoder from a state dict, float32, in eval mode.

    Args:
        config: the architecture of the weights.
        state: from :func:`read_checkpoint`, in either layout.

    Raises:
        MarsError: a key is missing or unknown, or its tensor has the wrong shape or type, or is not finite. All
            problems are listed.
    """
    from mars_assets.prithvi.model import PrithviMAE

    return _load(PrithviMAE, "", config, state)


def load_encoder_state(config: PrithviConfig, state: Mapping[str, Tensor]) -> tuple[PrithviEncoder, LoadReport]:
    """Build the encoder alone, float32, in eval mode.

    The state may contain a decoder.

    Raises as :func:`load_mae`.
    """
    from mars_assets.prithvi.model import PrithviEncoder

    return _load(PrithviEncoder, "encoder.", config, state)


def _load(
    network: Callable[[PrithviConfig], Network], prefix: str, config: PrithviConfig, state: Mapping[str, Tensor]
) -> tuple[Network, LoadReport]:
    """Build a network from the keys under ``prefix``; other known keys are unused."""
    import torch

    with torch.device("meta"):
        model = network(config)
    own = {prefix + key: value for key, value in model.state_dict().items()}
    state, ignored, notes = _without_prefix(state, own)
    # Both layouts were published, under the same file name.
    layout: Layout = "prefixed" if any(key.startswith(_PREFIXES) for key in state) else "flat"
    given = dict(state)
    if layout == "flat":
        given = {f"{'decoder' if key.startswith(_FLAT_DECODER) else 'encoder'}.{key}": state[key] for key in state}
    tables = {key: table for key, table in own.items() if key in _TABLES}
    loaded = [key for key in own if key in given and key not in tables]
    unused = [key for key in given if key not in own and (_is_scale(key) or (prefix and key.startswith("decoder.")))]

    needed = {key: value.shape for key, value in own.items() if key not in tables}
    unknown = [key for key in given if key not in own and key not in unused]
    refuse_mismatch(config.variant, needed, given, unknown, state.keys())
    # Copied, since tensors in a mapped file may be unaligned, which slows down matrix products by a tenth.
    weights = {key: given[key].to(torch.float32, copy=True) for key in loaded} | tables
    model.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items()}, strict=True, assign=True)
    notes += [
        note for key, table in tables.items() if key in given and (note := _position_note(key, given[key], table))
    ]
    return model.eval(), LoadReport(layout, tuple(loaded), tuple(tables), (*unused, *ignored), notes=tuple(notes))


class _Own(NamedTuple):
    """The part of a file that is the model's.

    Args:
        state: its tensors, without what wrappers add to keys.
        ignored: the file's other keys.
        notes: a sentence on each change.
    """

    state: Mapping[str, Tensor]
    ignored: tuple[str, ...]
    notes: list[str]


def _without_prefix(state: Mapping[str, Tensor], own: Collection[str]) -> _Own:
    """Remove what a model's wrappers put in front of its keys, and keys of their own.

    Such are ``module.``, ``_orig_mod.``, ``model.`` and ``backbone.``. Where all needed keys have one prefix, any other
    keys are those of a wrapper, such as a count of averaged models or another part. Otherwise a prefix of all keys is
    removed, so that an error can name what is missing.

    Args:
        state: the tensors of a file.
        own: keys of the architecture in the prefixed layout.

    Raises:
        MarsError: all needed keys have several prefixes, as in a file with a model and its average.
    """
    notes = []
    uncompiled = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    if len(uncompiled) == len(state) and uncompiled.keys() != state.keys():
        notes.append(f"{_COMPILED!r}, which torch.compile adds, was removed from the keys")
        state = uncompiled
    prefixes = _complete_prefixes(state, own) or _common_prefix(state, own)
    if len(prefixes) > 1:
        raise MarsError(
            f"the file contains the model {len(prefixes)} times, under {few([repr(name) for name in prefixes])}: save "
            "only that of one"
        )
    if prefixes in ([], [""]):
        return _Own(state, (), notes)
    ignored = tuple(key for key in state if not key.startswith(prefixes[0]))
    notes.append(f"the prefix {prefixes[0]!r} was removed from {'the' if ignored else 'all'} keys")
    if ignored:
        notes.append(f"{len(ignored)} keys without this prefix were ignored: {few(ignored)}")
    found = {key.removeprefix(prefixes[0]): value for key, value in state.items() if key.startswith(prefixes[0])}
    return _Own(found, ignored, notes)


def _complete_prefixes(state: Mapping[str, Tensor], own: Collection[str]) -> list[str]:
    """List the prefixes, possibly empty, with which all needed keys are in a file."""
    prefixed = [key for key in own if key not in _TABLES]
    found = []
    for needed in (prefixed, [key.partition(".")[2] for key in prefixed]):
        begin = [key.removesuffix(needed[0]) for key in state if key.endswith(needed[0])]
        found += [
            prefix
            for prefix in begin
            if prefix == "" or prefix.endswith(".")
            if all(prefix + key in state for key in needed)
        ]
    # With the decoder left out, the encoder's own prefix looks like one that was added.
    return [prefix for prefix in found if not (prefix.endswith("encoder.") and prefix[: -len("encoder.")] in found)]


def _common_prefix(state: Mapping[str, Tensor], own: Collection[str]) -> list[str]:
    """Find the prefix of all keys behind which the architecture's keys are."""
    known = {*own, *(key.partition(".")[2] for key in own)}
    keys, prefix = list(state), ""
    while keys and known.isdisjoint(keys):
        first = keys[0].partition(".")[0] + "."
        if not all(key.startswith(first) for key in keys):
            return []
        keys, prefix = [key.removeprefix(first) for key in keys], prefix + first
    return [prefix]


def _is_scale(key: str) -> bool:
    """Recognise the learned scales of time and location in TL variants.

    They are not used, since Mars has neither in Earth's terms.
    """
    return key.startswith(_PREFIXES) and key.endswith(".scale")


def _position_note(key: str, stored: Tensor, table: Tensor) -> str | None:
    """Compose a note if a file's positions differ from the fixed table.

    The table replaces them.
    """
    rows = min(stored.shape[1], table.shape[1]) if stored.ndim == 3 and stored.shape[2] == table.shape[2] else 0
    # The frame varies slowest, so tables for different numbers of frames agree in their common rows.
    difference = float((stored[:, :rows].float() - table[:, :rows]).abs().max()) if rows else float("inf")
    if difference < 1e-2:  # resolution of bfloat16
        return None
    return f"{key} in the file differs from the fixed sine-cosine table that replaces it (by up to {difference:.3g})"


@dataclass(frozen=True)
class Origin:
    """The origin of weights.

    Args:
        variant: a key of ``VARIANTS``.
        source: ``huggingface`` downloads a file into Hugging Face's cache unless it is there, and resumes a broken
            download; a token is read only from ``HF_TOKEN``. ``file`` reads ``path``. ``sample`` reads the weights
            included in this package.
        path: for ``file``: a checkpoint of the variant, or a folder with ``model.safetensors`` and ``config.json``.
        revision: for ``huggingface``: a commit, tag or branch. None: the one downloaded before, or else the newest.

    Raises:
        MarsError: the settings contradict each other.
    """

    variant: str
    source: WeightsSource
    path: Path | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        variant, source, path = self.variant, self.source, self.path
        if variant not in VARIANTS:
            raise MarsError(f"unknown Prithvi variant {variant!r}: choose from {', '.join(VARIANTS)}")
        if source not in get_args(WeightsSource):
            raise MarsError(f"unknown source of weights {source!r}: choose from {', '.join(get_args(WeightsSource))}")
        if (path is None) == (source == "file"):
            raise MarsError(
                f"source 'file' needs a path, and other sources take none: got source={source!r}, path={path}"
            )
        if source != "file" and (variant == "sample") != (source == "sample"):
            raise MarsError(
                f"variant {variant!r} is not available from source {source!r}: 'sample' is included in this package "
                "(source 'sample'), the others are on Hugging Face (source 'huggingface'), and any may be a local file "
                "(source 'file')"
            )


class Fetched(NamedTuple):
    """A local checkpoint file with its configuration.

    Args:
        path: the file.
        config: the architecture of the weights.
        commit: commit of the Hugging Face repository, if it came from one.
    """

    path: Path
    config: PrithviConfig
    commit: str | None = None


def fetch(origin: Origin, progress: Progress = SILENT) -> Fetched:
    """Make a checkpoint available as a local file.

    Raises:
        MarsError: the network cannot be reached, or the file does not exist.
    """
    variant, path = origin.variant, None if origin.path is None else user_path(origin.path)
    if origin.source == "huggingface":
        published = VARIANTS[variant]
        assert published.repository is not None
        assert published.file is not None
        file = hub_file(published.repository, published.file, origin.revision, progress)
        return Fetched(file, published.config, file.parent.name)  # the cache has snapshots/COMMIT/NAME
    if origin.source == "sample":
        path = SAMPLE
        if not (SAMPLE / WEIGHTS).exists():
            raise MarsError(f"the sample's weights {SAMPLE / WEIGHTS} are missing: install this package again")
    assert path is not None
    if path.is_dir():
        path = version_in_use(path)
        config = _read_config(_present(path / CONFIG))
        if config.variant != variant:
            raise MarsError(
                f"{path} contains weights of variant {config.variant!r}, not {variant!r}: choose that variant"
            )
        return Fetched(_present(path / WEIGHTS), config)
    return Fetched(_present(path), VARIANTS[variant].config)


def _read_config(path: Path) -> PrithviConfig:
    values = read_json(path)
    try:
        return PrithviConfig.from_dict(values)
    except MarsError as error:
        raise MarsError(f"{path}: {error}. Restore the file, or materialize its asset again") from error


def _present(path: Path) -> Path:
    if not path.is_file():
        raise MarsError(f"{path} does not exist: correct the path of the weights")
    return path


def install(lake: Lake, origin: Origin, progress: Progress = SILENT) -> Path:
    """Install weights in the lake, verified and in the prefixed layout.

    A file downloaded from Hugging Face stays pinned to its commit unless ``origin`` names a revision.

    Returns:
        The folder of the version in use, see :mod:`mars_assets.storage.published`.

    Raises:
        MarsError: as for :func:`fetch` and :func:`load_mae`, or the sha256 of a published file is not the known one.
    """
    variant, source = origin.variant, origin.source
    published = VARIANTS[variant]
    folder = version_in_use(lake.foundation(variant))
    if source == "huggingface" and (report := _installed(folder, published.config)):
        pinned = (None, report.get("commit"), report.get("revision"))
        if report["sha256"] in published.sha256 or (report.get("source") == source and origin.revision in pinned):
            progress.say(f"weights {variant} are already in {folder}")
            return folder
    file, config, commit = fetch(origin, progress)
    progress.say(f"verifying {file}")
    sha256 = sha256_file(file)
    if source == "huggingface" and published.sha256 and sha256 not in published.sha256:
        raise DamagedFileError(
            f"{file} has sha256 {sha256}, but {variant} was published as {' or '.join(published.sha256)}: delete the "
            "file from Hugging Face's cache and fetch it again, or use it anyway as a local file (source 'file')"
        )
    report = _installed(folder, config)
    if report and report["sha256"] == sha256:
        progress.say(f"weights {variant} are already in {folder}")
        return folder
    state = read_checkpoint(file)
    try:
        mae, load_report = load_mae(config, state)
    except MarsError as error:
        raise MarsError(f"{file}: {error}") from error
    for note in load_report.notes:
        progress.say(f"{file.name}: {note}")
    found = {"source": source, "file": file.name, "bytes": file.stat().st_size, "sha256": sha256}
    if commit:
        found |= {"revision": origin.revision, "commit": commit}
    with publish(lake.foundation(variant)) as version:
        progress.say(f"writing {version}")
        save_weights(version, mae, found | asdict(load_report))
    return version


def install_as_before(lake: Lake, variant: str, progress: Progress = SILENT) -> Path:
    """Find the lake's weights of a variant.

    Missing files are restored from their origin.

    Returns:
        The folder of the version in use.

    Raises:
        MarsError: files are missing, and the weights came from a local file or their origin is unknown; or as for
            :func:`install`.
    """
    folder = version_in_use(lake.foundation(variant))
    report = read_json(folder / LOAD_REPORT) if (folder / LOAD_REPORT).exists() else {}
    source = report.get("source")
    if source in ("sample", "huggingface"):
        return install(lake, Origin(variant, source, revision=report.get("commit")), progress)
    if not all((folder / name).exists() for name in (WEIGHTS, CONFIG, LOAD_REPORT)):
        raise MarsError(
            f"the weights in use, {folder}, are incomplete, and their origin is not available: materialize "
            "prithvi_weights with a source, a variant and, for a file, its path"
        )
    progress.say(f"weights {variant} remain in use")
    return folder


def _installed(folder: Path, config: PrithviConfig) -> dict[str, Any] | None:
    """Read the load report of a folder.

    There is none unless it contains weights of exactly this configuration.
    """
    if not all((folder / name).exists() for name in (WEIGHTS, CONFIG, LOAD_REPORT)):
        return None
    same = read_json(folder / CONFIG) == json.loads(json.dumps(config.to_dict()))
    return read_json(folder / LOAD_REPORT) if same else None


def save_weights(folder: Path, mae: PrithviMAE, report: Mapping[str, Any]) -> None:
    """Write the three files of a folder of weights, the load report last.

    Args:
        folder: the folder to write to. To replace weights that others may be reading, publish another version.
        mae: the weights and their configuration.
        report: content of ``load_report.json``. Its ``sha256`` identifies the weights in provenance; without one, that
            of the written ``model.safetensors`` is added.
    """
    with atomic_path(folder / WEIGHTS) as file:
        save_tensors(storable(mae, ""), file)
    write_json(folder / CONFIG, mae.config.to_dict())
    sha256 = report.get("sha256") or sha256_file(folder / WEIGHTS)
    parameters = sum(parameter.numel() for parameter in mae.parameters())
    names = {"variant": mae.config.variant, "parameters": parameters}
    write_json(folder / LOAD_REPORT, names | dict(report) | {"sha256": sha256})


def export_encoder(encoder: PrithviEncoder, path: Path) -> None:
    """Write an encoder in the published prefixed layout.

    TerraTorch and other tools read it.

    Args:
        encoder: a pretrained or fine-tuned encoder.
        path: ``.pt`` for tools that read ``torch.save`` (as TerraTorch does), or ``.safetensors``.

    Raises:
        MarsError: another suffix.
    """
    import torch

    state = storable(encoder, "encoder.")
    if path.suffix not in (".pt", ".safetensors"):
        raise MarsError(f"{path}: an encoder can only be written as .pt or .safetensors")
    with atomic_path(path) as temporary:
        if path.suffix == ".pt":
            torch.save(state, temporary)
        else:
            save_tensors(state, temporary)


class OpenedWeights(NamedTuple):
    """A folder of weights whose tensors have not been read.

    Args:
        config: architecture, bands and statistics.
        sha256: identifies the weights in provenance: the sha256 of the file that they were loaded from.
        load: loads the autoencoder, float32 on the CPU, in eval mode.
    """

    config: PrithviConfig
    sha256: str
    load: Callable[[], PrithviMAE]


def open_weights(folder: Path) -> OpenedWeights:
    """Read the configuration and the load report of a folder of weights.

    Args:
        folder: folder of the three files, or one in which versions of them are published.

    Raises:
        MissingInputError: it does not exist or is incomplete.
        DamagedFileError: its JSON cannot be read.
        MarsError: its configuration is invalid.
    """
    folder = version_in_use(folder)
    for name in (WEIGHTS, CONFIG, LOAD_REPORT):
        if not (folder / name).exists():
            raise MissingInputError("prithvi_weights", folder / name)
    config = _read_config(folder / CONFIG)
    sha256 = read_json(folder / LOAD_REPORT)["sha256"]
    return OpenedWeights(config, sha256, lambda: load_mae(config, read_checkpoint(folder / WEIGHTS))[0])


def load_encoder(folder: Path) -> PrithviEncoder:
    """Load the encoder from a folder of weights, float32 on the CPU, in eval mode."""
    folder = version_in_use(folder)
    return load_encoder_state(open_weights(folder).config, read_checkpoint(folder / WEIGHTS))[0]
