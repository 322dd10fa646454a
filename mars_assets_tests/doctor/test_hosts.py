"""Records of hosts and the hand-shake, of processes that pretend to be hosts."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mars_assets.doctor.findings import Finding, Surroundings
from mars_assets.doctor.greetings import Greeting, Seen, exchanged, greetings
from mars_assets.doctor.hosts import HostRecord, clock, differences, other_hosts, own_record, read_records, this_host
from mars_assets.doctor.shared_lake import same_lake
from mars_assets.instance import overlaid_settings, write_settings
from mars_assets.lake import Lake
from mars_assets_tests.doctor.bad_states import (
    doctor,
    needs_namespaces,
    of_check,
    on_another_host,
    only,
    report,
    surroundings,
    with_mounts,
)
from mars_assets_tests.postgres import Database

pytestmark = pytest.mark.process
CHECKS_OF_HOSTS = """
import sys
from mars_assets.doctor import hosts
from mars_assets.doctor.findings import Surroundings, run_checks
from mars_assets.doctor.greetings import greetings
from mars_assets.doctor.report import as_json
from mars_assets.lake import Lake

where = Surroundings(Lake.at(sys.argv[1]), wait=3)
results = list(run_checks({"Hosts": (*hosts.CHECKS, greetings)}, where))
print(as_json(results, where))
sys.exit(int(any(result.finding.level == "problem" for result in results)))
"""
GIT = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org"]


@pytest.fixture
def own(tmp_path: Path) -> HostRecord:
    return own_record(surroundings(tmp_path, host="here"))


def said_of(own: HostRecord, **other: Any) -> Finding:
    return only(differences(own, own.model_copy(update={"host": "there", **other})))


def test_what_must_not_differ_between_hosts(own: HostRecord) -> None:
    assert list(differences(own, own.model_copy(update={"host": "there"}))) == []
    assert "commit abc there" in said_of(own, commit="abc").what
    assert said_of(own, commit="abc").level == "problem"
    packages = {**own.packages, "torch": "1.0"} | {"ray": "2.1"}
    del packages["numpy"]
    what = said_of(own, packages=packages).what
    assert f"numpy missing there, {own.packages['numpy']} here" in what
    assert f"torch 1.0 there, {own.packages['torch']} here" in what
    assert said_of(own, ahead=own.ahead + 600).what == "there: its clock is 10 min ahead of this one's"
    assert "3 s behind" in said_of(own, ahead=own.ahead - 3).what
    assert list(differences(own, own.model_copy(update={"ahead": own.ahead + 1}))) == []
    assert "another folder" in said_of(own, lake_id="0").what
    assert "another folder" in said_of(own, inode=own.inode + 1).what, "a copy has the same id in another file"
    assert list(differences(own, own.model_copy(update={"inode": 1, "file_system": "fuse.sshfs"}))) == []
    assert said_of(own, lake="/elsewhere").level == "note"
    assert said_of(own, dagster_home="/home").what == "there: DAGSTER_HOME is /home there, not set here"
    assert "10 days old" in said_of(own, time=own.time - 10 * 86400, commit="abc").what


def test_records_are_left_and_compared(tmp_path: Path) -> None:
    first = surroundings(tmp_path, host="first")
    assert only(this_host(first)).what.startswith("first: commit ")
    assert "none has left a record" in only(other_hosts(first)).what
    late = surroundings(tmp_path, host="second", clock=lambda: time.time() + 90)
    assert "90 s ahead of the file server" in only(clock(late)).what
    assert only(clock(first)).level == "ok"
    list(this_host(late))
    assert [record.host for record in read_records(first.lake)[0]] == ["first", "second"]
    assert (
        "second: its clock is 90 s ahead"
        in only(
            finding for finding in other_hosts(surroundings(tmp_path, host="first")) if finding.level == "problem"
        ).what
    )
    first.lake.host("third").write_text("{}")
    damaged = next(iter(other_hosts(surroundings(tmp_path, host="first"))))
    assert "third.host.json is no record" in damaged.what


def test_no_secret_is_in_a_record(tmp_path: Path) -> None:
    where = surroundings(tmp_path, environment={"DAGSTER_PG_PASSWORD": "hunter2", "ROBOFLOW_API_KEY": "hunter2"})
    list(this_host(where))
    assert "hunter2" not in where.lake.host(where.host).read_text()


def test_a_name_that_two_machines_have(tmp_path: Path) -> None:
    def machine(boot: str) -> Surroundings:
        proc = with_mounts(tmp_path / boot, "/dev/x / ext4 rw 0 0\n")
        (proc / "sys/kernel/random").mkdir(parents=True, exist_ok=True)
        (proc / "sys/kernel/random/boot_id").write_text(boot + "\n")
        return surroundings(tmp_path, host="gpu", proc=proc)

    assert only(this_host(machine("1"))).level == "ok"
    assert only(this_host(machine("1"))).level == "ok"
    assert "another machine has the name gpu" in only(this_host(machine("2"))).what
    long_ago = machine("1")
    record = own_record(long_ago).model_copy(update={"time": 1.0})
    long_ago.lake.host("gpu").write_text(record.model_dump_json())
    assert only(this_host(machine("2"))).level == "ok", "it was restarted since"


def test_the_commit_of_a_clone(tmp_path: Path) -> None:
    project = tmp_path / "clone"
    project.mkdir()
    assert own_record(surroundings(tmp_path, project=project)).commit == ""
    (project / "file").write_text("a")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *command], cwd=project, check=True)
    commit = own_record(surroundings(tmp_path, project=project)).commit
    assert len(commit) == 10
    (project / "file").write_text("b")
    changed = own_record(surroundings(tmp_path, project=project)).commit
    assert changed.startswith(f"{commit}+"), "two hosts with the same changes have the same code"
    assert changed == own_record(surroundings(tmp_path, project=project)).commit


# The hand-shake


def test_what_two_hosts_saw_of_each_other() -> None:
    def said(seen: Seen, theirs: Seen) -> Finding:
        return next(exchanged(Greeting(host="b", session="s", beat=9, seen={"mine": theirs}), seen, "mine"))

    well = Seen(writes=3, usual=0.1, longest=0.4, lock_held=True)
    assert said(well, well).level == "ok"
    assert "after 0.10 s (0.40 s at most)" in said(well, well).what
    late = well.model_copy(update={"longest": 31.0})
    assert said(well, late).level == said(late, well).level == "note"
    assert "did not see" in said(well, Seen()).what
    loose = well.model_copy(update={"lock_held": False})
    assert "does not keep the other out" in said(loose, well).what
    assert "does not keep the other out" in said(well, loose).what


def test_nobody_answers(tmp_path: Path) -> None:
    where = surroundings(tmp_path, wait=1.5)
    left = Greeting(host="gone", session="s", beat=7, seen={}).model_dump_json()
    where.lake.hosts.mkdir()
    where.lake.greeting("gone").write_text(left)
    assert list(greetings(surroundings(tmp_path))) == [], "nobody is waited for"
    finding = only(greetings(where))
    assert finding.level == "problem"
    assert "no other host was seen" in finding.what, "what an earlier command left is no host"


@needs_namespaces
def test_two_hosts_with_one_lake_and_with_two(tmp_path: Path) -> None:
    """Each has its own mounts and host name; both find the lake at a path of their own."""
    (tmp_path / "shared").mkdir()
    command = doctor("--lake", str(tmp_path / "lake"), "doctor", "--json", "--wait", "60")
    (tmp_path / "lake").mkdir()
    mount = f"mount --bind '{tmp_path}/shared' '{tmp_path}/lake'"
    hosts = [on_another_host(name, command, mount) for name in ("one", "two")]
    for process, other in zip(hosts, ("two", "one"), strict=True):
        said = report(process)
        met = only(of_check(said, "greetings"))
        assert met["level"] == "ok", met
        assert met["what"].startswith(f"{other}: it sees what this host writes after")
        assert met["what"].endswith("locks hold between them")
    lake = Lake.at(tmp_path / "shared")
    assert {record.host for record in read_records(lake)[0]} == {"one", "two"}

    command = [sys.executable, "-c", CHECKS_OF_HOSTS, str(tmp_path / "lake")]
    elsewhere = f"mount -t tmpfs tmpfs '{tmp_path}/lake'"
    with_it, without = (on_another_host(f"{name}", command, how) for name, how in (("two", mount), ("one", elsewhere)))
    said = report(with_it)
    assert only(of_check(said, "other hosts"))["what"] == "one: the same lake, commit, packages and time; 0 GPUs"
    assert "no other host was seen in 3 s" in only(of_check(said, "greetings"))["what"]
    assert "no other host was seen in 3 s" in only(of_check(report(without), "greetings"))["what"]


# Hosts of one instance with several lakes


@pytest.fixture
def variables(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    settings = overlaid_settings(("postgres",))
    settings["storage"]["postgres"]["postgres_db"]["port"] = database.port
    write_settings(tmp_path / "home", settings)
    variables = {"DAGSTER_HOME": str(tmp_path / "home"), **database.variables}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def test_hosts_that_share_an_instance_and_not_a_lake(tmp_path: Path, variables: dict[str, str]) -> None:
    def said(host: str, folder: Path) -> list[Finding]:
        return list(same_lake(surroundings(folder, host=host, environment=variables)))

    assert only(said("one", tmp_path / "a")).what.startswith("0 other hosts")
    assert only(said("two", tmp_path / "a")).what.startswith("1 other hosts")
    finding = only(said("two", tmp_path / "b"))
    assert finding.level == "problem"
    assert "one uses this instance with another lake" in finding.what
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert only(said("two", tmp_path / "c")).level == "problem", "a copy has the same id"
    assert only(said("two", tmp_path / "a")).level == "ok", "it was set right"
    assert only(said("one", tmp_path / "a")).level == "ok"
