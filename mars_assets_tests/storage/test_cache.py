"""What is asked again is not computed again, and what was computed in another way is never taken for it."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mars_assets.progress import Progress
from mars_assets.storage import cache as module
from mars_assets.storage.cache import Cache

VALUES: dict[str, Callable[[int], Any]] = {
    "values.json": lambda n: [n, n / 3, None, {"name": "é", "score": math.pi * n}],
    "arrays.safetensors": lambda n: np.full((2, 3), n / 3, np.float32),
}


def _never(*_: Any) -> Any:
    raise AssertionError("computed again")


def _same(one: Any, other: Any) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


@pytest.fixture(params=VALUES)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "folder" / request.param


def _value(file: Path, n: int) -> Any:
    return VALUES[file.name](n)


def test_only_what_is_new_is_computed(file: Path) -> None:
    with Cache(file, "counting 1") as first:
        for _ in range(2):
            assert _same(first.get(["a", 1], lambda: _value(file, 1)), _value(file, 1))
    asked: list[list[int]] = []

    def compute(places: list[int]) -> Iterator[Any]:
        asked.append(places)
        for place in places:
            yield _value(file, place)

    with Cache(file, "counting 1") as second:
        found = second.get_all([["b", 0], ["a", 1], ["b", 0], ["b", 3]], compute)
        assert second.get_all([["a", 1], ["b", 3]], _never)
    assert asked == [[0, 3]], "of two that are the same, one"
    assert all(_same(got, _value(file, n)) for got, n in zip(found, [0, 1, 0, 3], strict=True))


def test_what_is_no_longer_asked_for_goes_unless_all_is_kept(file: Path) -> None:
    for keep_all in (True, False):
        for keys in (["a", "b"], ["b"]):
            with Cache(file, "1", keep_all=keep_all) as cache:
                for key in keys:
                    cache.get([key], lambda: _value(file, 1))
        with Cache(file, "1", keep_all=True) as cache:
            assert _same(cache.get(["a"], lambda: _value(file, 2)), _value(file, 1 if keep_all else 2))


def test_another_way_of_computing_is_not_taken(file: Path) -> None:
    said: list[str] = []
    for computation, n in (("counting 1", 1), ("counting 2", 2)):
        with Cache(file, computation, progress=Progress(said.append)) as cache:
            assert _same(cache.get(["a"], lambda n=n: _value(file, n)), _value(file, n))
    assert not said


def test_damage_is_said_once_and_computed_again(file: Path) -> None:
    with Cache(file, "1") as cache:
        cache.get(["a"], lambda: _value(file, 1))
    for damaged in (file.read_bytes()[:-3], b"\xff\x00", b""):
        file.write_bytes(damaged)
        said: list[str] = []
        for compute in (lambda: _value(file, 3), _never):
            with Cache(file, "1", progress=Progress(said.append)) as cache:
                assert _same(cache.get(["a"], compute), _value(file, 3))
        assert len(said) == 1
        assert f"{file} cannot be read" in said[0]


@pytest.mark.parametrize("content", ["[]", '{"key": "1", "metadata": {}}', '{"computation": "0", "results": {"a": 1}}'])
def test_a_file_of_another_kind_is_not_taken(tmp_path: Path, content: str) -> None:
    (tmp_path / "kept.json").write_text(content)
    for compute in (lambda: 3, _never):
        with Cache(tmp_path / "kept.json", "1") as cache:
            assert cache.get(["a"], compute) == 3


def test_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).standard_normal(50).tolist()
    for compute in (lambda: [*numbers, math.nan, math.inf], _never):
        with Cache(tmp_path / "kept.json", "1") as cache:
            *found, nan, inf = cache.get(["a"], compute)
    assert found == numbers
    assert math.isnan(nan)
    assert inf == math.inf


def test_what_was_computed_before_an_error_is_retained(file: Path) -> None:
    def fails(places: list[int]) -> Iterator[Any]:
        yield _value(file, 7)
        raise KeyError

    with Cache(file, "1") as cache:
        cache.get(["old"], lambda: _value(file, 1))
    with pytest.raises(KeyError), Cache(file, "1") as cache:
        cache.get_all([["a"], ["b"]], fails)
    with Cache(file, "1") as cache:
        assert _same(cache.get(["a"], _never), _value(file, 7))
        assert _same(cache.get(["old"], _never), _value(file, 1)), "the error came before it was asked for"


def test_nothing_is_written_where_nothing_is_new(file: Path) -> None:
    with pytest.raises(KeyError), Cache(file, "1") as cache:
        cache.get(["a"], lambda: {}["absent"])
    assert not file.exists()
    with Cache(file, "1") as cache:
        cache.get(["a"], lambda: _value(file, 1))
    before = file.stat()
    with Cache(file, "1") as cache:
        cache.get(["a"], _never)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_without_a_file_or_a_known_source(tmp_path: Path) -> None:
    with Cache(None, "1") as cache:
        assert [cache.get(["a"], lambda: 1), cache.get(["a"], _never)] == [1, 1]
    with Cache(tmp_path / "kept.json", "1") as cache:
        assert [cache.get(None, lambda: 1), cache.get(None, lambda: 2)] == [1, 2]
    assert not list(tmp_path.iterdir())


def test_a_result_for_each_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"), Cache(tmp_path / "kept.json", "1") as cache:
        cache.get_all([["a"], ["b"]], lambda places: [1])


def test_a_killed_process_leaves_what_it_had_written(file: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from mars_assets.storage import cache
from mars_assets_tests.storage.test_cache import VALUES
clock = [0]
cache.time.monotonic = lambda: clock[0]
def compute(places):
    for place in places:
        clock[0] += 61
        if place == 5:
            cache.write_bytes = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        yield VALUES[{file.name!r}](place)
with cache.Cache(Path(sys.argv[1]), "1") as opened:
    opened.get_all([[place] for place in range(9)], compute)
"""
    done = subprocess.run([sys.executable, "-c", script, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    with Cache(file, "1", keep_all=True) as cache:
        asked: list[int] = []
        cache.get_all([[n] for n in range(9)], lambda places: asked.extend(places) or [_value(file, n) for n in places])
        assert asked == [5, 6, 7, 8]


def test_writes_are_rare_where_they_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, writes = [0.0], []

    def write(path: Path, content: bytes) -> None:
        writes.append(len(json.loads(content)["results"]))
        now[0] += 10.0

    def compute(places: list[int]) -> Iterator[int]:
        for place in places:
            now[0] += 1.0
            yield place

    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "write_bytes", write)
    with Cache(tmp_path / "kept.json", "1") as cache:
        cache.get_all([[n] for n in range(300)], compute)
    assert writes == [61, 262, 300]
