"""Checkpoint files, read without running code, and what an architecture needs."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.storage.files import downloaded_instead, first_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

_WRAPPERS = ("model", "state_dict", "model_state_dict", "model_state", "module")
"""Keys of the model's state in a checkpoint, in the order in which they are looked for."""
_LISTED = 4
"""Number of keys of a kind that an error names."""
_SAVE = "save only the model's state dict"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, memory-mapped if the format allows it.

    Code in the file is never run.

    Args:
        path: safetensors, or a file by ``torch.save``, whatever its suffix: a state dict, bare or under a key such as
            ``model`` or ``state_dict``.

    Raises:
        MarsError: the file does not exist, or contains something other than tensors.
        DamagedFileError: it has neither format, or is truncated.
    """
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise MarsError(f"the checkpoint {path} does not exist: correct its path")
    content: Any
    # Beside their weights, training scripts save the options that they were started with.
    harmless = torch.serialization.safe_globals([argparse.Namespace])
    try:
        if _is_safetensors(path):
            content = load_file(path)
        elif zipfile.is_zipfile(path) and path.suffix != ".safetensors":  # torch trusts that suffix
            _refuse_program(path)
            with harmless:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            with path.open("rb") as file, harmless:
                content = torch.load(file, map_location="cpu", weights_only=True)
    except MarsError:
        raise
    except pickle.UnpicklingError as error:
        raise MarsError(
            f"{path} contains more than tensors, and unpickling it could run code: save only its state dict, "
            "preferably as safetensors"
        ) from error
    except Exception as error:  # torch raises whatever the damaged bytes lead to
        raise DamagedFileError(f"{path} cannot be read as a checkpoint ({error}): fetch it again") from error
    return _unwrap(content, path)


def _refuse_program(path: Path) -> None:
    """Refuse TorchScript, which is a program with weights.

    Raises:
        MarsError: it is that.
    """
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise MarsError(f"{path} is TorchScript, a program: save the state dict of its model instead")


def _is_safetensors(path: Path) -> bool:
    """Tell safetensors from a file by torch.save by its first bytes.

    Raises:
        DamagedFileError: it is neither.
    """
    start = first_bytes(path)
    if what := downloaded_instead(start):
        raise DamagedFileError(f"{path} is {what} instead of a checkpoint. Download it again")
    # A header in JSON follows its own length.
    is_safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size
    if not is_safetensors and not start.startswith((b"PK", b"\x80")):
        raise DamagedFileError(
            f"{path} is not a checkpoint: it is neither a zip nor a pickle, as written by torch.save, nor safetensors. "
            "Download it again"
        )
    return is_safetensors


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict of the model in a checkpoint's content."""
    import torch

    if not isinstance(content, Mapping):
        raise MarsError(f"{path} contains a {type(content).__name__}, not a state dict: {_SAVE}")
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _unwrap(content[wrapper], path)
    others = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if not others:
        return dict(content)
    states = [key for key in others if _holds_tensors(content[key])]
    if len(states) == 1:
        return _unwrap(content[states[0]], path)
    if states:
        raise MarsError(f"{path} contains several states, {few(states)}: save only that of the model")
    raise MarsError(f"{path} is not a plain state dict, since {few(others)} are no tensors: {_SAVE}")


def _holds_tensors(value: Any) -> bool:
    import torch

    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(each, torch.Tensor) for each in value.values()) or any(
        isinstance(value.get(wrapper), Mapping) for wrapper in _WRAPPERS
    )


def few(names: Sequence[Any]) -> str:
    """Join the first names, and say how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(map(str, names[:_LISTED])) + (f" and {more} more" if more > 0 else "")


def refuse_mismatch(
    name: str,
    needed: Mapping[str, Sequence[int]],
    given: Mapping[str, Tensor],
    unknown: Iterable[str],
    keys: Collection[str],
) -> None:
    """Check that a file has exactly the tensors that an architecture needs.

    Args:
        name: of the weights, for people.
        needed: shape of each tensor.
        given: tensors of the file.
        unknown: keys of these that the architecture knows nothing of.
        keys: all keys, as they stand in the file.

    Raises:
        MarsError: a tensor is missing or unknown, has the wrong shape or type, or is not finite. All are listed.
    """
    import torch

    missing = [f"{key} is missing" for key in needed if key not in given]
    strange = [f"{key} is not a key of this architecture" for key in unknown]
    wrong = []
    for key in (key for key in needed if key in given):
        value, shape = given[key], tuple(needed[key])
        if tuple(value.shape) != shape:
            wrong.append(f"{key} has shape {tuple(value.shape)}, but the architecture needs {shape}")
        elif not value.is_floating_point():
            wrong.append(f"{key} is {value.dtype}, not floating point")
        elif not all(bound.isfinite() for bound in torch.aminmax(value)):  # aminmax passes NaN on
            wrong.append(f"{key} has values that are not finite")
    count = len(missing) + len(strange) + len(wrong)
    if not count:
        return
    lines = [f"the weights do not match {name!r}: {count} problems"]
    for problems, what in ((missing, "are missing"), (strange, "are unknown"), (wrong, "are wrong")):
        lines += problems[:_LISTED]
        lines += [f"and {len(problems) - _LISTED} more {what}"] if len(problems) > _LISTED else []
    if given.keys().isdisjoint(needed):
        begin = Counter(key.partition(".")[0] for key in keys).most_common(_LISTED)
        names = ", ".join(f"{start!r} ({times})" for start, times in begin)
        lines.append(f"none of its {len(keys)} keys is one of the architecture's; most begin with {names}")
    raise MarsError("\n  ".join(lines))


def save_tensors(state: dict[str, Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors creates files that only their owner may read


def storable(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Copy a state dict to the CPU.

    Each tensor is contiguous in its own memory, as safetensors requires.
    """
    return {prefix + key: value.detach().cpu().contiguous().clone() for key, value in model.state_dict().items()}
