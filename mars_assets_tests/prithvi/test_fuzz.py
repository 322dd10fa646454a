"""Checkpoints with random changes: loaded, or refused with a message, and no code in them runs."""

import functools
import io
import json
import pickle
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from mars_assets.checkpoints import read_checkpoint
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import load_mae
from mars_assets_tests.changes import DAMAGED_ZIP, VALUES, changed_bytes, changed_json, fuzz, outcome

pytestmark = pytest.mark.slow

TINY = PrithviConfig(
    "tiny", img_size=32, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
)


@functools.cache
def _state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return PrithviMAE(TINY).state_dict()


@functools.cache
def _saved(form: str) -> bytes:
    """Write the tensors as tools do."""
    if form == "safetensors":
        return save(_state())
    content: Any = {f"module.{key}": value for key, value in _state().items()}
    if form == "wrapped":
        content = {"model": OrderedDict(content), "epoch": 3, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=form != "old")
    return buffer.getvalue()


def _repacked(draw: st.DrawFn, content: bytes) -> bytes:
    """Change, remove, add or rename a file in a zip; change the bytes of one that is damaged already."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
    except DAMAGED_ZIP:
        entries = {}
    if not entries:
        return changed_bytes(draw, content)
    few = [name for name in entries if "/data/" not in name]
    name = draw(st.sampled_from([*few, *few, *few, *entries]))
    match draw(st.sampled_from(["change", "change", "remove", "rename", "replace"])):
        case "remove":
            del entries[name]
        case "rename":
            entries[draw(st.sampled_from(["../../x", "/x", "archive/data/999", "a\\b", ""])) or "x"] = entries.pop(name)
        case "replace":
            entries[name] = pickle.dumps(draw(VALUES), 2)
        case _:
            entries[name] = changed_bytes(draw, entries[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return buffer.getvalue()


def _header_changed(draw: st.DrawFn, content: bytes) -> bytes:
    """Change the header of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(changed_json(draw, json.loads(content[8 : 8 + length]))).encode()
    stated = draw(st.sampled_from([len(header)] * 6 + [0, 1, 2**63, 2**64 - 1, len(content)]))
    return stated.to_bytes(8, "little") + header + content[8 + length :]


@st.composite
def checkpoints(draw: st.DrawFn) -> bytes:
    """A file of weights with one to three changes."""
    form = draw(st.sampled_from(["zip", "wrapped", "old", "safetensors"]))
    content = _saved(form)
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()) and form == "safetensors" and content[8:9] == b"{":
            try:
                content = _header_changed(draw, content)
            except (ValueError, IndexError):
                content = changed_bytes(draw, content)
        elif draw(st.booleans()) and zipfile.is_zipfile(io.BytesIO(content)):
            content = _repacked(draw, content)
        else:
            start = draw(st.sampled_from([0, 0, max(len(content) - 3000, 0)]))  # the pickle, or the zip's directory
            stop = min(start + draw(st.sampled_from([600, 3000, len(content)])), len(content))
            content = content[:start] + changed_bytes(draw, content[start:stop]) + content[stop:]
    return content


@given(content=checkpoints(), suffix=st.sampled_from([".pt", ".safetensors", ""]))
@fuzz
def test_a_changed_checkpoint_is_loaded_or_refused(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"weights{suffix}"
        path.write_bytes(content)
        state, refusal = outcome(lambda: read_checkpoint(path))
        assert state is not None or path.name in refusal
        assert len(refusal) < 2000
        if state is not None:
            loaded, refusal = outcome(lambda: load_mae(TINY, state))
            assert len(refusal) < 4000
            if loaded is not None:
                model, report = loaded
                assert all(value.isfinite().all() for value in model.state_dict().values())
                assert {*report.loaded, *report.recomputed} == {*_state()}
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


class _Running:
    """Something whose unpickling would create a file."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.target),))


@given(data=st.data(), protocol=st.integers(0, 5), zipped=st.booleans(), where=st.integers(0, 2))
@fuzz
def test_no_code_of_a_checkpoint_runs(data: st.DataObject, protocol: int, zipped: bool, where: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/ran"
        content = (_Running(target), {"model": {"a": _Running(target)}}, [torch.zeros(1), _Running(target)])[where]
        buffer = io.BytesIO()
        torch.save(content, buffer, pickle_protocol=max(2, protocol), _use_new_zipfile_serialization=zipped)
        written = buffer.getvalue() if data.draw(st.booleans()) else pickle.dumps(content, protocol)
        if data.draw(st.booleans()):
            written = changed_bytes(data.draw, written)
        path = Path(folder) / "weights.pt"
        path.write_bytes(written)
        outcome(lambda: read_checkpoint(path))
        assert [file.name for file in Path(folder).iterdir()] == ["weights.pt"]


@given(
    content=st.recursive(VALUES | st.just(torch.zeros(2)), lambda inner: st.dictionaries(st.text(max_size=3), inner))
)
@fuzz
def test_content_that_is_no_state_is_refused(content: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(content, path)
        state, refusal = outcome(lambda: read_checkpoint(path))
        if state is None:
            assert "weights.pt" in refusal
        else:
            assert all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items())
            assert outcome(lambda: load_mae(TINY, state))[0] is None
