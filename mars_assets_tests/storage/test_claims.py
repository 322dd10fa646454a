"""Claims: one process works on a result at a time, and nothing of a process that was given up is published."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mars_assets.errors import MarsError, SupersededError
from mars_assets.progress import Progress
from mars_assets.storage import claims
from mars_assets.storage.claims import claim, remove_if_empty
from mars_assets.storage.files import read_json, write_json
from mars_assets.storage.runs import Run, current_run, working_for

pytestmark = pytest.mark.slow

# A host of its own: its runs are files, whose content is the state of the run that they are named after.
WORKER = """
import sys, time
from pathlib import Path
from mars_assets.errors import MarsError
from mars_assets.progress import Progress
from mars_assets.storage.claims import claim, remove_if_empty
from mars_assets.storage.files import write_json
from mars_assets.storage.runs import Run, working_for
folder, run, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
def state_of(run):
    return (folder / run).read_text()
try:
    with working_for(Run(run, state_of)), claim(folder / "result", folder / "work", Progress(print, 0)) as mine:
        found = sorted(path.name for path in mine.folder.iterdir() if ".tmp-" not in path.name)
        write_json(mine.folder / run, {"by": run})
        print("working after", *found, flush=True)
        time.sleep(seconds)
        with mine.publishing():
            write_json(folder / "result", {"by": run, "after": found})
        print("published", flush=True)
except MarsError as error:
    print(f"{type(error).__name__}: {error}", flush=True)
"""


@contextmanager
def worker(folder: Path, run: str, seconds: float = 60.0) -> Iterator["subprocess.Popen[str]"]:
    (folder / run).write_text("in force")
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", WORKER, str(folder), run, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "work").iterdir()}


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_second_waits_and_is_told_for_whom(tmp_path: Path) -> None:
    with worker(tmp_path, "first-run", 3.0) as first:
        assert line(first) == "working after"
        with worker(tmp_path, "second-run", 0.0) as second:
            assert "result: waiting for run first-ru on " in line(second)
            assert line(first) == "published"
            assert line(second) == "working after", "what was published is not unfinished"
            assert line(second) == "published"
            second.wait()
    assert read_json(tmp_path / "result") == {"by": "second-run", "after": []}
    assert left(tmp_path) == {".lock", "claim.json"}


def test_what_a_killed_process_left_is_continued(tmp_path: Path) -> None:
    with worker(tmp_path, "killed") as first:
        assert line(first) == "working after"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with worker(tmp_path, "next", 0.0) as second:
            assert line(second) == "working after killed"
            assert line(second) == "published"
            second.wait()
    assert left(tmp_path) == {".lock", "claim.json"}


def test_a_run_that_was_given_up_cannot_publish_and_says_who_won(tmp_path: Path) -> None:
    with worker(tmp_path, "cut-off-run", 6.0) as first:
        assert line(first) == "working after"
        (tmp_path / "cut-off-run").write_text("over")
        with worker(tmp_path, "its-retry", 0.0) as second:
            assert line(second) == "working after cut-off-run", "its work is continued while it is alive"
            assert line(second) == "published"
            second.wait()
        text = line(first)
        assert text.startswith("SupersededError: ")
        assert "result: run its-retr on " in text
        assert "took it over and published it at" in text
        first.wait()
    assert read_json(tmp_path / "result")["by"] == "its-retry"
    assert left(tmp_path) == {".lock", "claim.json"}


def test_the_work_of_a_run_that_was_given_up_stays_its_own(tmp_path: Path) -> None:
    """What it still writes does not get into the work of the one that took over."""
    states = {"old": "in force", "new": "in force"}
    with working_for(Run("old", states.__getitem__)), claim(tmp_path / "r", tmp_path / "w") as old:
        (old.folder / "part").write_text("half")
        states["old"] = "over"
        with working_for(Run("new", states.__getitem__)), claim(tmp_path / "r", tmp_path / "w") as new:
            (old.folder / "part").write_text("of the old one")
            assert (new.folder / "part").read_text() == "half"
            with pytest.raises(SupersededError, match=r"run new on .* took it over at"), old.publishing():
                pytest.fail("published")
            with new.publishing():
                pass


def test_what_a_killed_process_left_goes_when_its_successor_has_published(tmp_path: Path) -> None:
    """It was alive when its work was copied."""
    with worker(tmp_path, "cut-off-run") as first:
        assert line(first) == "working after"
        (tmp_path / "cut-off-run").write_text("over")
        with worker(tmp_path, "its-retry", 3.0) as second:
            assert line(second) == "working after cut-off-run"
            first.kill()
            first.wait()
            assert line(second) == "published"
            second.wait()
    assert left(tmp_path) == {".lock", "claim.json"}


def test_a_run_that_is_over_publishes_nothing_though_nobody_took_over(tmp_path: Path) -> None:
    states = {"mine": "in force"}
    with working_for(Run("mine", states.__getitem__)), claim(tmp_path / "r", tmp_path / "w") as mine:
        write_json(mine.folder / "part", 1)
        states["mine"] = "over"
        with pytest.raises(SupersededError, match=r"run mine on .* was given up"), mine.publishing():
            pytest.fail("published")
    with claim(tmp_path / "r", tmp_path / "w") as following:
        assert read_json(following.folder / "part") == 1


def test_every_write_of_a_run_that_is_over_is_refused(tmp_path: Path) -> None:
    states = {"mine": "in force"}
    run = Run("mine", states.__getitem__)
    with working_for(run):
        write_json(tmp_path / "a", 1)
        states["mine"] = "over"
        write_json(tmp_path / "b", 1)  # asked less than five seconds ago
        run.asked[0] -= 10
        with pytest.raises(SupersededError, match="nothing more of it is written"):
            write_json(tmp_path / "c", 1)
    write_json(tmp_path / "d", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]


def test_a_child_of_a_process_does_not_ask(tmp_path: Path) -> None:
    with working_for(Run("mine", lambda run: pytest.fail("asked"), process=os.getpid() + 1)):
        assert current_run() is None
        write_json(tmp_path / "a", 1)


def test_a_database_that_is_away_stops_only_publishing(tmp_path: Path) -> None:
    answers = iter(["unknown", "unknown", "in force"])
    with working_for(Run("mine", lambda run: next(answers))), claim(tmp_path / "r", tmp_path / "w") as mine:
        write_json(mine.folder / "part", 1)
        with mine.publishing():
            pass
    run = Run("mine", lambda run: "unknown")
    with pytest.raises(MarsError, match=r"did not answer for 0 seconds, so that .* may have been given up"):
        run.require_in_force(patience=0)


def test_without_an_orchestrator_a_living_holder_is_never_judged(tmp_path: Path) -> None:
    with worker(tmp_path, "over", 2.0) as first:
        assert line(first) == "working after"
        (tmp_path / "over").write_text("over")
        lines: list[str] = []
        with claim(tmp_path / "result", tmp_path / "work", Progress(lines.append)):
            pass
    assert len(lines) == 1
    assert "waiting for run over on " in lines[0]


def test_work_of_an_earlier_version_is_taken_over(tmp_path: Path) -> None:
    place = tmp_path / "training"
    (place / "mmengine").mkdir(parents=True)
    (place / "mmengine" / "log").write_text("x")
    (place / "checkpoint.pt").write_text("y")
    with claim(tmp_path / "r", place) as mine:
        assert (mine.folder / "mmengine" / "log").read_text() == "x"
        assert (mine.folder / "checkpoint.pt").read_text() == "y"
        assert not (place / "checkpoint.pt").exists()


def test_a_damaged_claim_stops_nobody(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"token": 1}', ""):
        with claim(tmp_path / "r", tmp_path / "w") as mine, mine.publishing():
            pass
        (tmp_path / "w" / "claim.json").write_text(text)


def test_a_claim_that_somebody_deleted_is_lost(tmp_path: Path) -> None:
    with claim(tmp_path / "r", tmp_path / "w") as mine:
        (tmp_path / "w" / "claim.json").unlink()
        with pytest.raises(SupersededError, match="somebody deleted the claim on it"), mine.publishing():
            pass


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims, "write_json", full)
    with pytest.raises(MarsError, match="no space left"), claim(tmp_path / "r", tmp_path / "w"):
        pass


@pytest.mark.process
def test_whatever_dies_each_result_is_of_one_run_and_no_work_is_lost(tmp_path: Path) -> None:
    """Twelve runs, of which some are killed and some are given up while they go on."""
    rounds, published = 12, 0
    for number in range(rounds):
        run = f"run-{number:02d}"
        with worker(tmp_path, run, 0.5) as process:
            while "working" not in (text := line(process)):
                assert "waiting" in text
            found = text.split()[2:]
            if number % 3 == 0:
                process.kill()
            elif number % 3 == 1:
                (tmp_path / run).write_text("over")
                assert line(process).startswith("SupersededError")
            else:
                assert line(process) == "published"
                published += 1
                assert found == [f"run-{number - 2:02d}", f"run-{number - 1:02d}"], "their work is continued"
                assert read_json(tmp_path / "result") == {"by": run, "after": found}
                process.wait()
    assert published == rounds // 3
    assert left(tmp_path) == {".lock", "claim.json"}


def test_a_place_without_work_can_be_removed(tmp_path: Path) -> None:
    with claim(tmp_path / "r", tmp_path / "w"):
        pass
    remove_if_empty(tmp_path / "w")
    assert not (tmp_path / "w").exists()
    with claim(tmp_path / "r", tmp_path / "w") as mine:
        (mine.folder / "part").write_text("x")
    remove_if_empty(tmp_path / "w")
    assert (tmp_path / "w").exists(), "somebody may go on with it"
    with claim(tmp_path / "r", tmp_path / "w") as mine, mine.publishing():
        pass
    remove_if_empty(tmp_path / "w")
    assert (tmp_path / "w").exists(), "it says who published"


def test_the_copy_of_work_that_goes_on_says_no_more_than_it_has(tmp_path: Path) -> None:
    """As a scan does: rows are written, and then how many there are; files appear and disappear."""
    theirs, ended = tmp_path / "theirs", threading.Event()
    theirs.mkdir()

    def work() -> None:
        with open(theirs / "rows", "wb", buffering=0) as rows:
            for number in itertools.count(1):
                rows.write(b"x")
                write_json(theirs / "state.json", number)
                if ended.is_set():
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(40):
            copy = tmp_path / f"copy{number}"
            claims._copy_work(theirs, copy)
            if (copy / "state.json").exists():
                assert (copy / "rows").stat().st_size >= read_json(copy / "state.json")
            assert not list(copy.rglob("*.tmp-*"))
    finally:
        ended.set()
        thread.join()
    assert (copy / "state.json").exists()
