"""What is asked again is not computed again."""

from pathlib import Path

import pytest

from mars_assets.storage.cache import Remembered


def _never() -> None:
    raise AssertionError


def test_only_what_is_new_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    with Remembered(path, "counting 1") as first:
        assert first.of(["a", 1], lambda: [1, 2.5, None]) == [1, 2.5, None]
        assert first.of(["a", 1], _never) == [1, 2.5, None]
    with Remembered(path, "counting 1") as second:
        assert second.of(["a", 1], _never) == [1, 2.5, None]
        assert second.of(["a", 2], lambda: "new") == "new"


def test_what_is_no_longer_asked_for_goes(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    for keys in (["a", "b"], ["b"]):
        with Remembered(path, "1") as kept:
            for key in keys:
                kept.of([key], lambda: 1)
    with Remembered(path, "1") as kept:
        assert kept.of(["a"], lambda: 2) == 2


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"computation": "0", "results": {}}'])
def test_another_computation_or_a_damaged_file_is_not_taken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kept.json"
    path.write_bytes(content)
    with Remembered(path, "1") as kept:
        assert kept.of(["a"], lambda: 3) == 3
    with Remembered(path, "1") as kept:
        assert kept.of(["a"], _never) == 3


def test_nothing_is_kept_without_a_file_of_an_error_or_of_an_unknown_source(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    with Remembered(None, "1") as kept:
        assert kept.of(["a"], lambda: 1) == 1
    with Remembered(path, "1") as kept:
        assert [kept.of(None, lambda: 1), kept.of(None, lambda: 2)] == [1, 2]
    assert not path.exists()
    with pytest.raises(KeyError), Remembered(path, "1") as kept:
        kept.of(["a"], lambda: {}["absent"])
    assert not path.exists()
