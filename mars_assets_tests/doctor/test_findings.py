"""The loop that runs the checks, and the report."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

from mars_assets.doctor.findings import Finding, Result, Surroundings, note, ok, problem, run_checks
from mars_assets.doctor.report import as_json, write_report
from mars_assets.progress import Progress
from mars_assets_tests.doctor.bad_states import surroundings


def works(where: Surroundings) -> list[Finding]:
    return [ok("well")]


def breaks_late(where: Surroundings) -> Iterator[Finding]:
    yield ok("well so far")
    raise RuntimeError("the password hunter2 of postgresql://me:geheim@db/x is wrong\nand more")


def leaves(where: Surroundings) -> list[Finding]:
    raise SystemExit(3)


def hangs(where: Surroundings) -> list[Finding]:
    time.sleep(30)
    return []


def test_no_check_ends_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    where = surroundings(tmp_path, environment={"DAGSTER_PG_PASSWORD": "hunter2"}, progress=Progress(said.append))
    start = time.monotonic()
    results = list(run_checks({"One": (works, breaks_late, leaves, hangs), "Two": (works,)}, where, limit=0.2))
    assert time.monotonic() - start < 5
    assert [(result.group, result.check, result.finding.level) for result in results] == [
        ("One", "works", "ok"),
        ("One", "breaks late", "ok"),
        ("One", "breaks late", "problem"),
        ("One", "leaves", "problem"),
        ("One", "hangs", "problem"),
        ("Two", "works", "ok"),
    ]
    broken, left, hanging = (result.finding.what for result in results[2:5])
    assert "check 'breaks late' failed (RuntimeError: the password *** of postgresql://***@db/x is wrong)" in broken
    assert "SystemExit" in left
    assert "did not end within" in hanging
    assert said == ["hangs ..."], "what takes more than a second is announced"


def test_the_report_names_problems_last_with_what_to_do(tmp_path: Path) -> None:
    results = [
        Result("Lake", "locks", problem("none holds", "mount it again")),
        Result("Lake", "space", note("it is little", "free some")),
        Result("Machine", "names", ok("bytes that are no text: \udce9")),
    ]
    lines: list[str] = []
    assert write_report(results, lines.append) == results[:1]
    assert lines == [
        "Lake",
        "  problem  locks                 none holds",
        "  note     space                 it is little: free some",
        "\nMachine",
        r"  ok       names                 bytes that are no text: \xe9",
        "",
        "1 problem",
        "  1. locks: none holds: mount it again",
    ]
    assert write_report(results[1:], lines.append) == []
    assert lines[-1] == "No problem was found."
    said = json.loads(as_json(results, surroundings(tmp_path)))
    assert said["problems"] == 1
    assert said["findings"][0] == {
        "group": "Lake",
        "check": "locks",
        "level": "problem",
        "what": "none holds",
        "advice": "mount it again",
    }
