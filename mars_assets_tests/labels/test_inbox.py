"""Which zips count, and where broken ones go."""

import os
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest

from mars_assets.assets.labels import observe_inbox
from mars_assets.checks import inbox_holds_exports_alone
from mars_assets.definitions import build_defs
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.labels.build import build_labelled_crops, update_labelled_crops
from mars_assets.labels.inbox import (
    UNFINISHED_SECONDS,
    being_copied,
    current_exports,
    has_had,
    passed_over,
    reject,
    rejections,
    unused,
)
from mars_assets.labels.table import current_label_version, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.progress import Progress
from mars_assets.resources import LakeResource
from mars_assets_tests.labels.conftest import image_bytes
from mars_assets_tests.labels.test_exports import SMALL


def test_newest_version_of_a_project_counts_once(write_zip, coco_entries, tmp_path: Path) -> None:
    for name in ("c.v2.coco-segmentation.zip", "c.v10.coco-segmentation.zip", "other.zip", ".c.v11.part.zip"):
        write_zip(f"inbox/{name}", coco_entries | {"note.txt": name})
    copy = tmp_path / "inbox/again.zip"
    copy.write_bytes((tmp_path / "inbox/other.zip").read_bytes())
    names = [path.name for path in current_exports(tmp_path / "inbox")]
    assert names == ["again.zip", "c.v10.coco-segmentation.zip"]


def test_of_the_names_that_the_website_gives_the_newest_counts(write_zip, coco_entries, tmp_path: Path) -> None:
    """The website has a project's title, the API its address."""
    for name in ("Mars Craters.v1i.coco.zip", "mars-craters.v2.coco-segmentation.zip", "Mars Craters.v3-raw.coco.zip"):
        write_zip(f"inbox/{name}", coco_entries | {"note.txt": name})
    inbox = tmp_path / "inbox"
    assert [path.name for path in current_exports(inbox)] == ["Mars Craters.v3-raw.coco.zip"]
    assert has_had(inbox, "mars-craters", 3)
    assert has_had(inbox, "Mars_Craters", 3)
    assert not has_had(inbox, "mars-craters", 4)


def _broken(coco_entries: dict) -> dict:
    return coco_entries | {"valid/_annotations.coco.json": "{"}


def _everything(lake: Lake) -> set[Path]:
    return {path.relative_to(lake.root.parent) for path in lake.root.parent.rglob("*")}


def test_a_broken_version_is_put_aside_and_the_one_before_it_counts(filled: Lake, write_zip, coco_entries) -> None:
    before, version = read_labelled_crops(filled), current_label_version(filled)
    broken = write_zip("c.v2.coco-segmentation.zip", _broken(coco_entries))
    content = broken.read_bytes()
    shutil.move(broken, filled.inbox)
    _, report = build_labelled_crops(filled)
    assert read_labelled_crops(filled).equals(before)
    assert current_label_version(filled) == version
    aside = filled.inbox / "rejected" / "c.v2.coco-segmentation.zip"
    assert aside.read_bytes() == content
    said = (filled.inbox / "rejected" / "c.v2.coco-segmentation.zip.txt").read_text()
    assert "is not valid JSON" in said
    assert report.rejected == [{"zip": aside.name, "why": said.split("\n\n")[1]}]
    assert [path.name for path in filled.inbox.glob("*.zip")] == ["c.v1.coco-segmentation.zip"]


def test_other_projects_are_read_though_one_is_broken(filled: Lake, write_zip, coco_entries) -> None:
    shutil.move(write_zip("a.v1.zip", {"a.txt": "x"}), filled.inbox)
    table, report = build_labelled_crops(filled)
    assert len(table) == 3
    assert [entry["zip"] for entry in report.rejected] == ["a.v1.zip"]
    assert "no known export format" in report.rejected[0]["why"]


def test_a_lone_broken_export_leaves_the_last_table_and_says_why(filled: Lake, write_zip, coco_entries) -> None:
    before = read_labelled_crops(filled)
    (filled.inbox / "c.v1.coco-segmentation.zip").unlink()
    shutil.move(write_zip("c.v2.coco-segmentation.zip", _broken(coco_entries)), filled.inbox)
    with pytest.raises(
        MarsError, match=r"no usable export in .*Rejected: c\.v2\.coco-segmentation\.zip: .*is not valid JSON"
    ):
        build_labelled_crops(filled)
    assert read_labelled_crops(filled).equals(before)


def test_the_same_broken_name_twice_keeps_both(tmp_path: Path) -> None:
    for content in (b"one", b"two", b"three"):
        (tmp_path / "c.v1.zip").write_bytes(content)
        reject(tmp_path / "c.v1.zip", DamagedFileError(f"reason {content.decode()}"))
    kept = {path.name: path.read_bytes() for path in (tmp_path / "rejected").glob("*.zip")}
    assert kept == {"c.v1.zip": b"one", "c.v1.2.zip": b"two", "c.v1.3.zip": b"three"}
    assert sorted(rejections(tmp_path)) == [
        ("c.v1.2.zip", "reason two"),
        ("c.v1.3.zip", "reason three"),
        ("c.v1.zip", "reason one"),
    ]


def test_a_half_copied_zip_waits_and_one_that_stays_half_is_put_aside(filled: Lake, write_zip, coco_entries) -> None:
    half = write_zip("c.v2.coco-segmentation.zip", coco_entries | {"more.txt": "x"})
    half.write_bytes(half.read_bytes()[:-30])
    shutil.move(half, filled.inbox)
    _, report = build_labelled_crops(filled)
    assert report.left_alone == ["c.v2.coco-segmentation.zip"]
    assert not report.rejected
    there = filled.inbox / "c.v2.coco-segmentation.zip"
    os.utime(there, (time.time() - UNFINISHED_SECONDS - 1,) * 2)
    assert being_copied(filled.inbox) == []
    _, report = build_labelled_crops(filled)
    assert not report.left_alone
    assert "cannot be opened as a zip" in report.rejected[0]["why"]


def test_nothing_outside_the_lake_is_touched(filled: Lake, write_zip, coco_entries) -> None:
    hostile = coco_entries | {"../../escaped.txt": "x", "/absolute.txt": "x"}
    shutil.move(write_zip("h.v1.zip", hostile), filled.inbox)
    before = _everything(filled)
    build_labelled_crops(filled)
    new = {path for path in _everything(filled) - before if path.suffix in (".txt", ".zip")}
    assert new == {
        filled.root.relative_to(filled.root.parent) / "inbox" / "rejected" / name
        for name in ("h.v1.zip", "h.v1.zip.txt")
    }


def test_a_broken_inbox_that_empties_itself_says_so(lake: Lake, write_zip) -> None:
    lake.inbox.mkdir(parents=True)
    assert current_exports(lake.inbox) == []
    (lake.inbox / "x.zip").write_bytes(b"half")
    with pytest.raises(MarsError, match=r"Still being copied: x\.zip"):
        build_labelled_crops(lake)


def _two_projects(lake: Lake, write_zip, coco_entries) -> None:
    shutil.move(
        write_zip("b.v1.folder.zip", {"train/Crater/x.png": _picture(1), "valid/NoCrater/y.png": _picture(2)}),
        lake.inbox,
    )
    build_labelled_crops(lake)
    assert len(read_labelled_crops(lake)) == 5


def _picture(seed: int) -> bytes:
    return image_bytes(seed, suffix="png")


@pytest.mark.parametrize("half", [False, True], ids=["broken", "half-copied"])
def test_labels_are_not_lost_because_their_next_version_cannot_be_used(
    filled: Lake, write_zip, coco_entries, half: bool
) -> None:
    """The older zip was taken away when the newer one was put there."""
    _two_projects(filled, write_zip, coco_entries)
    before = read_labelled_crops(filled)
    (filled.inbox / "c.v1.coco-segmentation.zip").unlink()
    newer = write_zip("c.v2.coco-segmentation.zip", coco_entries if half else _broken(coco_entries))
    if half:
        newer.write_bytes(newer.read_bytes()[:-30])
    shutil.move(newer, filled.inbox)
    for _ in range(2):  # the second time it lies in rejected/ already
        with pytest.raises(
            MarsError,
            match=r"no longer has a usable export of c \(c\.v2\.coco-segmentation\.zip\).* previous labels remain",
        ):
            build_labelled_crops(filled)
        assert read_labelled_crops(filled).equals(before)
    for place in (filled.inbox, filled.inbox / "rejected"):
        (place / "c.v2.coco-segmentation.zip").unlink(missing_ok=True)
    build_labelled_crops(filled)
    assert len(read_labelled_crops(filled)) == 2, "a project that was taken away on purpose is gone"


def test_texts_of_others_in_rejected_are_shown_whole(tmp_path: Path) -> None:
    (tmp_path / "c.zip").write_bytes(b"x")
    reject(tmp_path / "c.zip", DamagedFileError("one\n\ntwo: Krater \u00fc"))
    (tmp_path / "rejected" / "d.zip.txt").write_bytes(b"by hand \xff")
    assert dict(rejections(tmp_path)) == {"c.zip": "one\n\ntwo: Krater \u00fc", "d.zip": "by hand \ufffd"}


def test_capital_zips_are_zips(lake: Lake, write_zip, coco_entries) -> None:
    lake.inbox.mkdir(parents=True)
    shutil.move(write_zip("c.v1.zip", coco_entries), lake.inbox / "Mars Craters.V2I.COCO.ZIP")
    table, report = build_labelled_crops(lake)
    assert (len(table), report.exports[0]["project"], report.exports[0]["version"]) == (3, "mars-craters", 2)
    assert has_had(lake.inbox, "mars-craters", 2)
    shutil.move(write_zip("c.v3.zip", _broken(coco_entries)), lake.inbox / "MARS CRATERS.V3I.COCO.Zip")
    _, report = build_labelled_crops(lake)
    assert [entry["zip"] for entry in report.rejected] == ["MARS CRATERS.V3I.COCO.Zip"]
    assert has_had(lake.inbox, "mars-craters", 3)
    (lake.inbox / "Mars Craters.V2I.COCO.ZIP").unlink()
    shutil.move(write_zip("o.v1.zip", SMALL["folder"]), lake.inbox)
    with pytest.raises(MarsError, match=r"no longer has a usable export of mars-craters \(MARS CRATERS"):
        build_labelled_crops(lake)


OTHERS = {
    "craters.v2i.coco": "is a folder",
    "craters.v3i.coco.tar.gz": "is not packed as a zip",
    "craters.v4i.coco.7z": "is not packed as a zip",
    "CRATERS.V5I.COCO.RAR": "is not packed as a zip",
    "craters.v6i.coco.zip.crdownload": "is an unfinished download",
    "craters.v7i.coco.zip.part": "is an unfinished download",
    "Unconfirmed 12345.CRDOWNLOAD": "is an unfinished download",
    "craters.v8i.coco": "is a zip under another name",
    "_annotations.coco.json": "is not a zip",
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_else_lies_in_the_inbox_is_named(filled: Lake, write_zip, coco_entries, name: str) -> None:
    for litter in (".DS_Store", "desktop.ini"):
        (filled.inbox / litter).write_bytes(b"x")
    said: list[str] = []
    assert build_labelled_crops(filled, Progress(said.append))[1].passed_over == passed_over(filled.inbox) == []
    if OTHERS[name] == "is a folder":
        (filled.inbox / name / "train").mkdir(parents=True)
    elif OTHERS[name].startswith("is a zip"):
        shutil.move(write_zip("x.zip", coco_entries), filled.inbox / name)
    else:
        (filled.inbox / name).write_bytes(b"x")
    for _ in range(2):  # the second time the table is up to date
        said.clear()
        _, report = update_labelled_crops(filled, Progress(said.append))
        (line,) = report.passed_over
        assert line.startswith(f"{name} {OTHERS[name]}")
        assert f"not read: inbox/{line}" in said
    result = inbox_holds_exports_alone(LakeResource(root=str(filled.root)))
    assert not result.passed
    assert name in (result.description or "")


def test_an_inbox_without_a_zip_says_what_lies_there(lake: Lake) -> None:
    (lake.inbox / "craters.v1i.coco").mkdir(parents=True)
    with pytest.raises(MarsError, match=r"no usable export .* Not read: craters\.v1i\.coco is a folder: pack it"):
        build_labelled_crops(lake)


def _of_others(coco_entries: dict) -> dict:
    """The same layout with other images."""
    others = {}
    for number, (name, content) in enumerate(coco_entries.items()):
        other = content.replace("_png.rf", "b_png.rf") if isinstance(content, str) else image_bytes(900 + number)
        others[name.replace("_png.rf", "b_png.rf")] = other
    return others


def test_two_exports_of_one_title_are_both_read(filled: Lake, write_zip, coco_entries) -> None:
    shutil.move(write_zip("C.v1i.coco (1).zip", _of_others(coco_entries)), filled.inbox)
    table, report = build_labelled_crops(filled)
    assert len(table) == 6
    names = ("C.v1i.coco (1).zip", "c.v1.coco-segmentation.zip")
    assert set(table["project"]) == {f"c ({name})" for name in names}
    assert [export["file"] for export in report.exports] == list(names)
    for export in report.exports:
        assert all(name in export["warnings"] for name in names)
    assert build_labelled_crops(filled)[0].equals(table)
    shutil.move(write_zip("c.v2.coco-segmentation.zip", coco_entries), filled.inbox)
    table, report = build_labelled_crops(filled)
    assert (len(table), set(table["project"])) == (3, {"c"})
    assert report.unused == [path.name for path in unused(filled.inbox)] == list(names)


def test_two_exports_of_one_title_one_of_which_is_not_named_in_utf8(filled: Lake, write_zip, coco_entries) -> None:
    name = os.fsdecode(b"c.v1-\xe9.zip")
    shutil.move(write_zip("o.zip", _of_others(coco_entries)), filled.inbox / name)
    table, _ = build_labelled_crops(filled)
    assert set(table["project"]) == {"c (c.v1.coco-segmentation.zip)", r"c (c.v1-\xe9.zip)"}


def test_two_exports_of_one_title_that_contradict_each_other_are_named(filled: Lake, write_zip, coco_entries) -> None:
    key = "train/_annotations.coco.json"
    other = coco_entries | {key: str(coco_entries[key]).replace("24.0", "40.0")}
    shutil.move(write_zip("C.v1.zip", other), filled.inbox)
    table, report = build_labelled_crops(filled)
    assert len(table) == 2
    assert report.conflicts == [
        "train0: n_craters 1 (c (C.v1.zip)) or 1 (c (c.v1.coco-segmentation.zip)), outlined differently"
    ]


def test_one_version_in_two_formats_is_read_once(lake: Lake, write_zip) -> None:
    for name, layout in (("c.v1i.coco.zip", "coco"), ("c.v1i.yolov8.zip", "yolo"), ("c.v1i.folder.zip", "folder")):
        write_zip(name, SMALL[layout])
    lake.inbox.mkdir(parents=True)
    for name in ("c.v1i.coco.zip", "c.v1i.yolov8.zip"):
        shutil.move(lake.root.parent / name, lake.inbox)
    table, report = build_labelled_crops(lake)
    assert set(table["project"]) == {"c"}
    assert [("read instead" in export["warnings"], export["file"]) for export in report.exports] == [
        (True, "c.v1i.coco.zip"),
        (False, "c.v1i.yolov8.zip"),
    ]
    assert "c.v1i.yolov8.zip" in report.exports[0]["warnings"]


def test_one_of_two_exports_of_one_title_is_not_lost_unnoticed(filled: Lake, write_zip, coco_entries) -> None:
    shutil.move(write_zip("C.v1.zip", _of_others(coco_entries)), filled.inbox)
    build_labelled_crops(filled)
    shutil.move(write_zip("C.v1.zip", _broken(coco_entries)), filled.inbox / "C.v1.zip")
    with pytest.raises(MarsError, match=r"no longer has a usable export of c \(C\.v1\.zip\)"):
        build_labelled_crops(filled)
    assert len(read_labelled_crops(filled)) == 6


def test_reported_exports_of_two_people_are_both_read(lake: Lake, shared: Path) -> None:
    shutil.copytree(shared / "data/reported/E3_same_title_two_people", lake.inbox)
    table, report = build_labelled_crops(lake)
    assert table["observation"].str[:3].value_counts().to_dict() == {"ESP": 6, "PSP": 6}
    assert len(report.exports) == 2


def test_a_reported_capital_zip_is_read(lake: Lake, shared: Path) -> None:
    shutil.copytree(shared / "data/reported/A3_capital_ZIP", lake.inbox)
    assert len(build_labelled_crops(lake)[0]) == 6


@pytest.mark.parametrize("name", ["c.v2." + "n" * (length - 9) + ".zip" for length in range(248, 256)])
def test_an_export_with_the_longest_name_is_put_aside(filled: Lake, write_zip, name: str) -> None:
    for content in ("one", "two"):
        write_zip(name, {"x.txt": content}).rename(filled.inbox / name)
        _, report = build_labelled_crops(filled)
    assert len(report.rejected) == 2
    assert all("no known export format" in entry["why"] for entry in report.rejected)
    aside = filled.inbox / "rejected"
    assert len(list(aside.glob("*.zip"))) == len(list(aside.glob("*.zip.txt"))) == 2
    assert (aside / name).exists()
    assert has_had(filled.inbox, "c", 2)
    assert all(f"{name} was rejected" in path.read_text() for path in aside.glob("*.txt"))


@pytest.mark.parametrize(
    "name", [b"\xe9.zip", b"c.v2.\xe9\xff.zip", b"c.v2." + b"\xe9" * 246 + b".zip", "c.v2.é".encode() * 31 + b".zip"]
)
def test_an_export_whose_name_is_not_utf8_or_long_in_bytes(filled: Lake, write_zip, coco_entries, name: bytes) -> None:
    said: list[str] = []
    for content in (_broken(coco_entries), {"x.txt": "x"}, coco_entries):
        write_zip("new.zip", content).rename(filled.inbox / os.fsdecode(name))
        build_labelled_crops(filled, Progress(said.append))
    assert len(rejections(filled.inbox)) == 2
    for text in (line for entry in rejections(filled.inbox) for line in entry):
        text.encode()
    _, metadata = observe_inbox(filled)
    metadata["exports"].value.encode()
    (filled.inbox / os.fsdecode(name)).unlink()
    (filled.inbox / os.fsdecode(name[:-4] + b".rar")).write_bytes(b"x")
    (line,) = passed_over(filled.inbox)
    assert line.encode().endswith(b"pack it again as a zip")


@pytest.mark.slow
def test_names_that_are_not_utf8_are_shown(filled: Lake, write_zip, coco_entries) -> None:
    for name, content in ((b"caf\xe9.v2.zip", _of_others(coco_entries)), (b"caf\xe9.v3.zip", {"x.txt": "x"})):
        write_zip("new.zip", content).rename(filled.inbox / os.fsdecode(name))
    (filled.inbox / os.fsdecode(b"b\xe9.v1.zip")).write_bytes(b"PK")
    (filled.inbox / os.fsdecode(b"a\xe9.zip")).write_bytes((filled.inbox / "c.v1.coco-segmentation.zip").read_bytes())
    job = build_defs({"lake": LakeResource(root=str(filled.root))}).resolve_implicit_global_asset_job_def()
    run = job.execute_in_process(asset_selection=[dg.AssetKey("labelled_crops")])
    (event,) = run.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    str(metadata).encode()
    assert metadata["still being copied"] == "b\\xe9.v1.zip"
    assert "caf\\xe9.v3.zip" in metadata["rejected"]
    assert "caf\\xe9.v2.zip" in metadata["exports"]
