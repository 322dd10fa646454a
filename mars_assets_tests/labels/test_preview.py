"""What an export would give, said before it is in the inbox."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mars_assets.cli import main
from mars_assets.labels.preview import preview_export
from mars_assets.lake import Lake
from mars_assets_tests.labels.conftest import image_bytes
from mars_assets_tests.labels.test_class_names import two_classes

Write = Callable[[str, dict[str, bytes | str]], Path]


def test_an_export_is_described_and_nothing_is_touched(
    lake: Lake, write_zip: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_zip("Mars Craters.v3i.coco.zip", two_classes("ridge"))
    content = path.read_bytes()
    assert main(["--lake", str(lake.root), "check", str(path)]) == 1
    said = capsys.readouterr()
    assert "Mars Craters.v3i.coco.zip: project mars-craters, version 3, coco-segmentation, 4 images" in said.out
    assert "4 images with the class 'ridge' are left out" in said.out
    assert f"state it in {lake.class_names_csv}" in said.out
    assert "not all labels of Mars Craters.v3i.coco.zip would be used" in said.err
    lake.root.mkdir()
    lake.class_names_csv.write_text("project,class,meaning\n,ridge,other\n")
    assert main(["--lake", str(lake.root), "check", str(path)]) == 0
    assert "left out" not in capsys.readouterr().out.replace(
        "annotations of classes other than crater were left out", ""
    )
    assert path.read_bytes() == content
    assert [file.name for file in lake.root.iterdir()] == ["class_names.csv"]


@pytest.mark.parametrize("damage", ["no zip", "half", "picture"])
def test_what_would_be_rejected_is_said(lake: Lake, write_zip: Write, damage: str) -> None:
    entries = {f"{split}/Crater/{split}.jpg": image_bytes(1) for split in ("train", "valid")}
    if damage == "picture":
        entries = dict.fromkeys(entries, b"\xff\xd8\xff broken")
    path = write_zip("tiles.v1.folder.zip", dict(entries))
    if damage != "picture":
        path.write_bytes(b"x" * 99 if damage == "no zip" else path.read_bytes()[:-99])
    preview = preview_export(lake, path)
    assert not preview.is_complete
    assert preview.text.startswith("tiles.v1.folder.zip cannot be used: ")
    assert ("may be half-copied: copy it again" in preview.text) == (damage == "half")
    assert path.exists()
    assert not lake.root.exists()


def test_a_name_that_is_not_utf8_is_said(
    lake: Lake, write_zip: Write, coco_entries: dict[str, bytes | str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_zip(os.fsdecode(b"caf\xe9.v1.zip"), coco_entries)
    assert main(["--lake", str(lake.root), "check", str(path)]) == 0
    assert "caf\\xe9.v1.zip: project caf, version 1" in capsys.readouterr().out
    path.write_bytes(b"Rar!\x1a\x07")
    assert main(["--lake", str(lake.root), "check", str(path)]) == 1
    assert "not all labels of caf\\xe9.v1.zip would be used" in capsys.readouterr().err
