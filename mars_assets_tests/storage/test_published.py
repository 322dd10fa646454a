"""Published folders: whole versions whoever writes, and nothing lost that somebody may still be reading."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.storage.published import LINK, POINTER, RETAINED_SECONDS, publish, publish_folder, version_in_use

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "publishing.py"


def _publish(folder: Path, content: str) -> Path:
    with publish(folder) as version:
        for name in ("one", "two"):
            (version / name).write_text(content)
    return version


def _read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in version_in_use(folder).iterdir() if path.is_file()}


def _age(path: Path) -> None:
    long_ago = time.time() - 2 * RETAINED_SECONDS
    os.utime(path, (long_ago, long_ago))


def test_the_last_version_is_in_use_and_the_one_before_stays_as_it_was(tmp_path: Path) -> None:
    first = _publish(tmp_path / "weights", "a")
    reading = version_in_use(tmp_path / "weights")
    second = _publish(tmp_path / "weights", "b")
    assert (reading, version_in_use(tmp_path / "weights")) == (first, second)
    assert _read(tmp_path / "weights") == {"one": "b", "two": "b"}
    assert _read(first) == {"one": "a", "two": "a"}


def test_a_link_leads_people_to_the_version_in_use(tmp_path: Path, monkeypatch) -> None:
    for content in ("a", "b"):
        version = _publish(tmp_path / "weights", content)
        assert (tmp_path / "weights" / LINK).resolve() == version
        assert not (tmp_path / "weights" / LINK).readlink().is_absolute(), "the lake may be moved"
    monkeypatch.setattr(Path, "symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    _publish(tmp_path / "other", "a")
    assert _read(tmp_path / "other") == {"one": "a", "two": "a"}


def test_a_finished_folder_becomes_a_version(tmp_path: Path) -> None:
    _publish(tmp_path / "weights", "a")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "one").write_text("b")
    version = publish_folder(tmp_path / "work", tmp_path / "weights")
    assert _read(tmp_path / "weights") == {"one": "b"}
    assert version == version_in_use(tmp_path / "weights")
    assert not (tmp_path / "work").exists()


def test_a_failed_publication_leaves_the_version_in_use_and_nothing_else(tmp_path: Path) -> None:
    version = _publish(tmp_path / "weights", "a")
    with pytest.raises(KeyError), publish(tmp_path / "weights") as failed:  # noqa: PT012
        (failed / "one").write_text("b")
        raise KeyError
    assert version_in_use(tmp_path / "weights") == version
    assert {path.name for path in (tmp_path / "weights").iterdir()} == {version.name, POINTER, LINK, ".lock"}


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    with pytest.raises(MarsError, match=r"no space left to write .*weights"), publish(tmp_path / "weights"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert version_in_use(tmp_path / "weights") == tmp_path / "weights"


def test_a_version_goes_a_day_after_it_was_replaced_not_after_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    versions = [_publish(folder, "a")]
    _age(versions[0])
    versions.append(_publish(folder, "b"))
    versions.append(_publish(folder, "c"))
    assert all(version.exists() for version in versions), "somebody may have been reading a until now"
    _age(versions[0])
    _age(versions[2])
    versions.append(_publish(folder, "d"))
    assert [version.exists() for version in versions] == [False, True, True, True], "c was in use"


def test_a_plain_folder_of_before_is_read_until_a_version_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_text("old")
        _age(folder / name)
    with pytest.raises(KeyError), publish(folder):
        raise KeyError
    assert _read(folder) == {"one": "old", "two": "old", ".lock": ""}
    version = _publish(folder, "a")
    assert _read(folder) == {"one": "a", "two": "a"}
    assert (folder / "one").read_text() == "old", "somebody may be reading it"
    for name in ("one", "two"):
        _age(folder / name)
    _publish(folder, "b")
    assert not (folder / "one").exists()
    assert version.exists()


def test_a_version_that_somebody_deleted_can_be_published_again(tmp_path: Path) -> None:
    version = _publish(tmp_path / "weights", "a")
    for path in version.iterdir():
        path.unlink()
    version.rmdir()
    _publish(tmp_path / "weights", "b")
    assert _read(tmp_path / "weights") == {"one": "b", "two": "b"}
    (tmp_path / "weights" / POINTER).write_text("{")
    with pytest.raises(DamagedFileError, match=re.escape(POINTER)):
        version_in_use(tmp_path / "weights")


KILLED = """
import os, signal, sys
from pathlib import Path
from mars_assets.storage import files, published
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
moment = sys.argv[2]
if moment == "flushing":
    published._flush = die
elif moment == "before the pointer":
    published.write_json = die
elif moment == "replacing the pointer":
    files.os.replace = die
with published.publish(Path(sys.argv[1])) as version:
    (version / "one").write_text("killed")
    if moment == "writing":
        die()
    (version / "two").write_text("killed")
if moment == "afterwards":
    die()
"""


@pytest.mark.parametrize("before", ["plain", "published", "nothing"])
@pytest.mark.parametrize("moment", ["writing", "flushing", "before the pointer", "replacing the pointer", "afterwards"])
def test_a_killed_publisher_leaves_a_whole_version(tmp_path: Path, before: str, moment: str) -> None:
    folder = tmp_path / "weights"
    if before == "published":
        _publish(folder, "old")
    elif before == "plain":
        folder.mkdir()
        for name in ("one", "two"):
            (folder / name).write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    expected = "killed" if moment == "afterwards" else "" if before == "nothing" else "old"
    found = {name: content for name, content in _read(folder).items() if name in ("one", "two")}
    assert found == ({"one": expected, "two": expected} if expected else {})
    _publish(folder, "new")
    assert _read(folder) == {"one": "new", "two": "new"}
    for path in folder.iterdir():
        _age(path)
    last = _publish(folder, "last")
    assert len([path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]) == 2, (
        "the killed one is gone, with what was before"
    )
    assert version_in_use(folder) == last


@pytest.mark.slow
def test_readers_see_one_whole_version_while_two_processes_publish(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--seconds", "30", "--folder", str(tmp_path)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    counts = dict(re.findall(r"^(failed|empty|mixed): (\d+)", done.stdout, re.MULTILINE))
    assert counts == {"failed": "0", "empty": "0", "mixed": "0"}
    rounds, reads = map(int, re.findall(r"^(?:rounds|reads): (\d+)", done.stdout, re.MULTILINE))
    assert min(rounds, reads) > 100
