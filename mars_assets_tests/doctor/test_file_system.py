"""Checks of the lake's file system."""

import threading
from pathlib import Path

import pytest

from mars_assets.doctor import file_system
from mars_assets.doctor.file_system import (
    case_matters,
    flock,
    free_space,
    lake_folder,
    lock_findings,
    read_often,
    rename,
    type_of_file_system,
    verdict,
)
from mars_assets.doctor.findings import Surroundings
from mars_assets.doctor.mounts import Mount, mount_of
from mars_assets.doctor.other_process import SIZE, hold_filelock, hold_flock
from mars_assets.lake import Lake
from mars_assets_tests.doctor.bad_states import (
    doctor,
    levels,
    needs_namespaces,
    of_check,
    on_another_host,
    only,
    report,
    surroundings,
    with_mounts,
)

pytestmark = pytest.mark.process


def test_a_local_disk_is_well_and_nothing_is_left_on_it(tmp_path: Path) -> None:
    where = surroundings(tmp_path)
    for check in file_system.CHECKS:
        findings = list(check(where))
        if check is not free_space:
            assert [finding.level for finding in findings] == ["ok"], findings
    assert list(where.lake.hosts.iterdir()) == []


def test_a_lake_that_does_not_exist(tmp_path: Path) -> None:
    where = Surroundings(Lake.at(tmp_path / "nowhere"), {})
    assert "does not exist" in only(lake_folder(where)).what
    assert [check for check in file_system.CHECKS[2:] if list(check(where))] == []
    assert not where.lake.root.exists()


# What makes the locks of a mount, or its renames, reach one host only.
@pytest.mark.parametrize(
    ("kind", "options", "level", "words"),
    [
        ("nfs4", "rw,vers=4.2,hard,local_lock=none", "ok", "locks are the server's"),
        ("nfs", "rw,vers=3,local_lock=all", "problem", "local_lock=all: locks hold on this host only"),
        ("nfs", "rw,vers=3,local_lock=flock", "problem", "local_lock=flock"),
        ("nfs", "rw,vers=3,nolock,local_lock=none", "problem", "nolock"),
        ("nfs", "rw,vers=3,local_lock=posix", "ok", "server's"),
        ("nfs4", "rw,soft", "note", "soft"),
        ("lustre", "rw,flock,lazystatfs", "ok", "with flock"),
        ("lustre", "rw,localflock", "problem", "localflock"),
        ("lustre", "rw,lazystatfs", "problem", "without flock"),
        ("cifs", "rw,nobrl", "problem", "nobrl"),
        ("cifs", "rw", "note", "depends on its server"),
        ("fuse.sshfs", "rw", "note", "depends on its server"),
        ("tmpfs", "rw", "note", "is lost"),
        ("ext4", "rw", "ok", "of this host only"),
    ],
)
def test_types_of_file_systems(kind: str, options: str, level: str, words: str) -> None:
    finding = only(verdict(Mount(Path("/data"), kind, tuple(options.split(",")))))
    assert finding.level == level
    assert words in finding.what


def test_the_mount_of_a_path_is_the_deepest_and_the_last(tmp_path: Path) -> None:
    lake = tmp_path / "a lake"
    lake.mkdir()
    escaped = str(lake).replace(" ", r"\040")
    proc = with_mounts(
        tmp_path / "proc",
        f"/dev/x / ext4 rw 0 0\nold:/l {escaped} nfs rw 0 0\nsrv:/l {escaped} nfs4 rw,nolock 0 0\n"
        f"none {escaped}2 tmpfs rw 0 0\nbroken line\n",
    )
    assert mount_of(lake, proc) == Mount(lake, "nfs4", ("rw", "nolock"))
    assert mount_of(tmp_path, proc) == Mount(Path("/"), "ext4", ("rw",))
    where = Surroundings(Lake.at(lake), {}, proc=proc)
    assert levels(type_of_file_system, where) == ["problem"]
    assert levels(type_of_file_system, Surroundings(Lake.at(lake), {}, proc=tmp_path / "none")) == ["note"]


def test_a_writer_that_does_not_rename_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    stop = threading.Event()

    def overwrite() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with path.open("wb") as file:
                for _ in range(SIZE // 21):
                    file.write(b"%020d\n" % number)

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        reads, _, broken = read_often(path, 0.5)
    finally:
        stop.set()
        writer.join()
    assert 0 < broken <= reads


@pytest.mark.parametrize("hold", [hold_flock, hold_filelock])
def test_locks_that_do_not_hold_or_do_not_end(tmp_path: Path, hold) -> None:
    where = surroundings(tmp_path)
    said = only(lock_findings(where, "lock", hold, is_free=lambda path: True))
    assert "did not keep a second process out" in said.what
    said = only(lock_findings(where, "lock", hold, is_free=lambda path: False, release=0.2))
    assert "held for 0 s and more" in said.what

    def refuse(path: Path) -> bool:
        raise OSError(38, "Function not implemented")

    assert "Function not implemented" in only(lock_findings(where, "lock", hold, is_free=refuse)).what


def test_names_that_are_one_file_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "NAME").symlink_to("name")
    assert not case_matters(tmp_path)


@needs_namespaces
def test_a_small_file_system_in_memory(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=8m tmpfs '{tmp_path}'"
    said = report(on_another_host("small", doctor("--lake", str(tmp_path), "doctor", "--json"), mount))
    assert said["host"] == "small"
    assert "the lake is lost when the machine stops" in only(of_check(said, "type of file system"))["what"]
    assert only(of_check(said, "free space"))["level"] == "problem"
    assert {only(of_check(said, name))["level"] for name in ("rename", "fsync", "flock", "filelock")} == {"ok"}
    assert list(tmp_path.iterdir()) == []


@needs_namespaces
def test_a_lake_that_may_only_be_read(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o ro tmpfs '{tmp_path}'"
    said = report(on_another_host("reader", doctor("--lake", str(tmp_path), "doctor", "--json"), mount))
    assert "cannot be written" in only(of_check(said, "lake folder"))["what"]
    assert of_check(said, "rename") == []


def test_the_checks_measure(tmp_path: Path) -> None:
    where = surroundings(tmp_path)
    assert "another process sees it after" in only(rename(where)).what
    assert "was free" in only(flock(where)).what
