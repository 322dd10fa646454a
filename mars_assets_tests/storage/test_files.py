import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.lake import Lake
from mars_assets.storage.files import (
    atomic_files,
    atomic_path,
    printable,
    read_json,
    read_provenance,
    read_table,
    short_name,
    shown,
    sweep,
    write_bytes,
    write_json,
    write_table,
)
from mars_assets.storage.hashing import fingerprint


def test_only_a_folder_is_a_lake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MarsError, match="is a file"):
        Lake.at(tmp_path / "file")
    with pytest.raises(MarsError, match="local folder"):
        Lake.at("s3://bucket/lake")


@pytest.mark.parametrize("address", ["../outside", "/etc/passwd", "labels/../../outside", "labels/.."])
def test_stored_addresses_stay_inside(lake: Lake, address: str) -> None:
    with pytest.raises(MarsError, match="outside the lake"):
        lake.inside(address)


def test_a_folder_of_the_lake_may_lie_on_another_disk(lake: Lake, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    lake.root.mkdir()
    lake.labels.symlink_to(disk)
    path = lake.labels / "images" / "a.png"
    write_json(path, {})
    assert (disk / "images" / "a.png").exists()
    assert lake.relative(path) == "labels/images/a.png"
    assert lake.inside("labels/images/a.png") == path
    with pytest.raises(MarsError, match="outside the lake"):
        lake.inside("labels/../secret")
    with pytest.raises(ValueError, match="subpath"):
        lake.relative(lake.labels / ".." / ".." / "outside")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    write_json(target, {"good": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"good": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MarsError, match="no space left"):
        write_json(tmp_path / "a.json", {})
    assert not list(tmp_path.iterdir())


def test_what_a_killed_writer_leaves_is_swept_up(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from mars_assets.storage.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    target = tmp_path / "chip.tif"
    target.write_text("good")
    subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert target.read_text() == "good"
    assert len(list(tmp_path.iterdir())) == 2
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["chip.tif"]


def test_the_next_process_sweeps_up_what_was_left_a_day_ago(tmp_path: Path) -> None:
    names = [
        ".a.tmp-0123abcd.json",
        ".b.tmp-0123abcd.parquet",
        ".c.tmp-0123abcd",
        ".mine.tmp-draft.json",
        "d.tmp-0123abcd",
    ]
    for name in names:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (0, 1e9))
    (tmp_path / ".e.tmp-0123abcd.json").write_text("of a run that is under way")
    write_json(tmp_path / "z.json", {})
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".mine.tmp-draft.json", "d.tmp-0123abcd", ".e.tmp-0123abcd.json", "z.json"}


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    targets = {f"new.{suffix}": tmp_path / f"roads.{suffix}" for suffix in ("dbf", "shx", "shp")}

    def write(text: str, *names: str) -> None:
        with atomic_files(targets) as folder:
            for name in names:
                (folder / name).write_text(text)

    write("first", *targets)
    with pytest.raises(FileNotFoundError):
        write("half", "new.dbf", "new.shx")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"roads.{suffix}": "first" for suffix in ("dbf", "shx", "shp")
    }


@pytest.mark.parametrize("moment", range(7))
def test_the_last_file_never_stands_among_parts_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Killed before each removal and each renaming."""
    targets = {f"new.{suffix}": tmp_path / f"roads.{suffix}" for suffix in ("dbf", "shx", "shp")}
    for path in targets.values():
        path.write_text("first")
    steps = iter([None] * moment)

    def killed_at_its_moment(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            try:
                next(steps)
            except StopIteration:
                raise KeyboardInterrupt from None
            return function(*args, **options)

        return call

    def write() -> None:
        with atomic_files(targets) as folder:
            for name in targets:
                (folder / name).write_text("second")
            monkeypatch.setattr("os.replace", killed_at_its_moment(os.replace))
            monkeypatch.setattr("pathlib.Path.unlink", killed_at_its_moment(Path.unlink))

    with pytest.raises(KeyboardInterrupt) if moment < 6 else nullcontext():
        write()
    left = {path.suffix: path.read_text() for path in tmp_path.iterdir()}
    assert ".shp" not in left or (len(left) == 3 and len(set(left.values())) == 1)
    assert (".shp" in left) == (moment in (0, 6))


def test_a_folder_of_a_killed_run_is_swept_up_too(tmp_path: Path) -> None:
    for name in (".a.tmp-0123abcd", ".mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half.shp").write_text("half")
        os.utime(tmp_path / name, (0, 1e9))
    write_json(tmp_path / "z.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {".mine", "z.json"}


def test_tables_carry_their_provenance(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", pd.DataFrame({"a": [1]}), {"recipe": {"lr": 0.1}})
    assert read_provenance(tmp_path / "t.parquet") == {"recipe": {"lr": 0.1}}
    assert read_table(tmp_path / "t.parquet", "t")["a"].tolist() == [1]


def test_missing_and_damaged_tables_say_what_to_do(tmp_path: Path, lake: Lake) -> None:
    with pytest.raises(MissingInputError, match="dagster asset materialize --select crops"):
        read_table(tmp_path / "t.parquet", "crops")
    (tmp_path / "t.parquet").write_text("no parquet")
    with pytest.raises(DamagedFileError, match="materialize 'crops' again"):
        read_table(tmp_path / "t.parquet", "crops")
    with pytest.raises(MissingInputError, match=r"a, b are missing.*--select a,b"):
        lake.require({"a": tmp_path / "x", "b": tmp_path / "y", "c": tmp_path})


def test_json_without_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_fingerprints_know_no_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})


@pytest.mark.parametrize(
    "name",
    ["n" * 250 + ".json", "n." + "s" * 250, "é" * 125 + ".json", os.fsdecode(b"\xe9" * 250)],
    ids=["stem", "suffix", "two bytes", "not UTF-8"],
)
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, name: str) -> None:
    with atomic_path(tmp_path / name) as temporary:
        temporary.write_text("whole")
        assert "." not in name or temporary.suffix == Path(name).suffix[:16]
    assert (tmp_path / name).read_text() == "whole"


def test_a_name_that_is_too_long_is_said_to_be_and_can_be_shortened(tmp_path: Path) -> None:
    names = ["n" * 252 + ".png", "n" * 253 + ".png", "é" * 127 + ".png"]
    with pytest.raises(MarsError, match="its name is too long: shorten it"):
        write_bytes(tmp_path / names[0], b"")
    for name in names:
        write_bytes(tmp_path / short_name(name), b"")
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert short_name("a" * 251 + ".png") == "a" * 251 + ".png"


@pytest.mark.parametrize(("first", "second"), [("a", "a/b.json"), ("a/b.json", "a"), ("a/b", "a/b/c/d.json")])
def test_a_file_where_a_folder_should_be(tmp_path: Path, first: str, second: str) -> None:
    write_json(tmp_path / first, {})
    with pytest.raises(MarsError, match="a file and a folder have the same name: rename one"):
        write_json(tmp_path / second, {})


def test_an_ending_counts_as_part_of_a_name() -> None:
    for length in range(240, 256):
        name = short_name("a" * (length - 4) + ".zip", ".txt")
        assert len(name) <= 255
        assert name.endswith(".zip.txt")
    assert short_name("a.zip", ".txt") == "a.zip.txt"
    assert short_name("a" * 250 + ".zip", ".txt") != short_name("a" * 251 + ".zip", ".txt")


def test_what_is_not_utf8_is_shown_escaped() -> None:
    assert shown(os.fsdecode(b"a/caf\xe9 \xc3\xa9.png")) == "a/caf\\xe9 é.png"
    assert shown("a\\b é \\x41.png") == "a\\b é \\x41.png"
    assert shown("\ud800.png") == "\\ud800.png"
    name = os.fsdecode(b"caf\xe9")
    assert printable(f"{shown(name)} {name}") == "caf\\xe9 caf\\xe9"


@given(st.lists(st.lists(st.sampled_from([b"\xe9", b"\\", b"\\xe9", b"xe9", b"a", b"\xc3\xa9"])), min_size=2))
def test_no_two_names_look_the_same(names: list[list[bytes]]) -> None:
    different = {b"".join(parts) for parts in names}
    assert len({shown(os.fsdecode(name)) for name in different}) == len(different)


def test_json_of_names_that_are_not_utf8(tmp_path: Path) -> None:
    content = {"file": os.fsdecode(b"caf\xe9"), "name": "café"}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
