"""Exports with random changes: read, or refused with a message, and never a row that contradicts its files.

``--hypothesis-profile=long`` goes on for an hour or so.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mars_assets.errors import MarsError
from mars_assets.images import image_size, read_label_image
from mars_assets.labels.build import build_labelled_crops, update_labelled_crops
from mars_assets.labels.checks import mask_problems, unknown_classes
from mars_assets.labels.table import mask_path
from mars_assets.lake import Lake
from mars_assets_tests.changes import changed_bytes, changed_json, changed_text
from mars_assets_tests.labels.conftest import image_bytes
from mars_assets_tests.labels.test_class_names import _masks, _table, _yolo, two_classes

Entries = dict[str, bytes | str]


class _Shown(dict[str, bytes | str]):
    """Entries that a failing test shows without their pixels."""

    def __repr__(self) -> str:
        return repr({name: f"{len(part)} bytes" if isinstance(part, bytes) else part for name, part in self.items()})


def _folders(name: str) -> Entries:
    return {
        f"{split}/{kind}/{number}.png": image_bytes(number, suffix="png")
        for split in ("train", "valid")
        for number, kind in enumerate(("Crater", "NoCrater", name))
    }


SEEDS: tuple[Callable[[str], Entries], ...] = (two_classes, _yolo, _masks, _table, _folders)


@st.composite
def exports(draw: st.DrawFn) -> Entries:
    """An export of a random format with up to four changes."""
    entries = draw(st.sampled_from(SEEDS))(draw(st.sampled_from(["ridge", "crater", "no crater", "0"])))
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(entries)))
        content = entries[name]
        match draw(st.sampled_from(["content", "content", "content", "name", "remove", "copy"])):
            case "remove":
                del entries[name]
            case "copy":
                entries[changed_text(draw, name)] = content
            case "name":
                entries[changed_text(draw, name)] = entries.pop(name)
            case _ if isinstance(content, bytes):
                entries[name] = changed_bytes(draw, content)
            case _ if name.endswith(".json") and draw(st.integers(0, 4)):
                try:
                    entries[name] = json.dumps(changed_json(draw, json.loads(content)))
                except (json.JSONDecodeError, IndexError):
                    entries[name] = changed_text(draw, content)
            case _:
                entries[name] = changed_text(draw, content)
        if not entries:
            break
    return _Shown(entries)


def _zip(path: Path, entries: Entries) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
            archive.writestr(zipfile.ZipInfo(name or "x"), data)


@pytest.mark.slow
@given(entries=exports(), damage=st.none() | st.tuples(st.floats(0, 1), st.integers(0, 7)))
@settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
def test_a_changed_export_is_read_or_refused(entries: Entries, damage: tuple[float, int] | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = Lake(folder / "lake")
        lake.inbox.mkdir(parents=True)
        path = folder / "a.v1.zip"
        _zip(path, entries)
        if damage is not None:
            content = bytearray(path.read_bytes())
            content[int(damage[0] * (len(content) - 1))] ^= 1 << damage[1]
            path.write_bytes(content)
        shutil.move(path, lake.inbox)
        try:
            table, report = build_labelled_crops(lake)
        except MarsError:
            pass
        else:
            _hold(lake, table)
            assert len(unknown_classes(lake)[0]) == len(report.unknown_classes)
            again, _ = update_labelled_crops(lake)
            assert again["labels_sha"].tolist() == table["labels_sha"].tolist()
        assert [path.name for path in folder.iterdir()] == ["lake"]


def _hold(lake: Lake, table: Any) -> None:
    """Check that image, masks and counts of each row agree."""
    assert len(table)
    assert table["image_id"].is_unique
    assert table.groupby("group")["split"].nunique().max() == 1
    for row in table.itertuples():
        assert image_size(lake.inside(row.file), "") == (row.height, row.width)
        assert lake.inside(row.file).resolve().is_relative_to(lake.root.resolve())
        outlined = not pd.isna(row.n_craters)
        assert outlined or row.label in ("crater", "no_crater")
        if outlined:
            numbers = read_label_image(mask_path(lake, "instances", row))
            assert sorted(np.unique(numbers[numbers > 0])) == list(range(1, row.n_craters + 1))
            filled = read_label_image(mask_path(lake, "filled", row))
            np.testing.assert_array_equal(filled > 0, numbers > 0)
    problems = [problem for problem in mask_problems(lake)[0] if problem != "no image has an outlined crater"]
    assert problems == []
