"""Settings of a Dagster instance, in folders of any name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance

from mars_assets.cli import main
from mars_assets.errors import MarsError
from mars_assets.instance import (
    OVERLAYS,
    PROJECT_SETTINGS,
    merged,
    overlaid_settings,
    own_overlay,
    write_instance_settings,
    write_settings,
)

NAMES = [
    "plain",
    "with blanks",
    "#1",
    "a # b",
    "key: value",
    "- [x] {y}",
    "'\"&*!|>%@`",
    "Größe 火星",
    "%4",
    "a\\b",
    "~",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_history_is_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    home = tmp_path / name / ".dagster"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    lake = tmp_path / name / "lake"
    assert main(["--lake", str(lake), "init"]) == 0
    assert "dagster.yaml" in capsys.readouterr().out
    assert (lake / "inbox").is_dir()
    settings = yaml.safe_load((home / "dagster.yaml").read_bytes())
    project = yaml.safe_load(PROJECT_SETTINGS.read_bytes())
    assert settings == project | {"storage": {"sqlite": {"base_dir": str(home)}}}
    with DagsterInstance.get() as instance:
        instance.add_dynamic_partitions("observation", ["ESP_011472_1225"])
    assert list(home.rglob("*.db"))
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_settings_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    lake = ["--lake", str(tmp_path / "lake")]
    assert main([*lake, "init"]) == 0
    path = tmp_path / "home" / "dagster.yaml"
    # What older instructions wrote has the same settings in other words.
    old = PROJECT_SETTINGS.read_text().replace("base_dir: .dagster", f"base_dir: {path.parent}")
    path.write_text(old)
    assert main([*lake, "init"]) == 0
    assert "which existed" in capsys.readouterr().out
    assert path.read_text() == old
    for other in ("telemetry: {enabled: true}\n", "base_dir: a: b\n"):
        path.write_text(other)
        assert main([*lake, "init"]) == 1
        assert "has other settings" in capsys.readouterr().err
        assert path.read_text() == other
    path.write_text("\n")  # holds nothing
    assert main([*lake, "init"]) == 0
    assert path.read_text().strip()


def test_settings_that_nobody_edited_follow_the_project(tmp_path: Path) -> None:
    path = tmp_path / "dagster.yaml"
    storage = {"sqlite": {"base_dir": "here"}}
    assert write_settings(tmp_path, {"storage": storage, "telemetry": {"enabled": True}})
    assert write_settings(tmp_path, {"storage": storage, "telemetry": {"enabled": False}})
    assert not write_settings(tmp_path, {"storage": storage, "telemetry": {"enabled": False}})
    assert yaml.safe_load(path.read_bytes()) == {"storage": storage, "telemetry": {"enabled": False}}
    with pytest.raises(MarsError, match="has other settings"):  # the history would seem lost
        write_settings(tmp_path, {"storage": {"sqlite": {"base_dir": "there"}}})
    path.write_text(path.read_text() + "nux: {enabled: true}\n")
    with pytest.raises(MarsError, match="has other settings"):
        write_settings(tmp_path, {"storage": storage, "telemetry": {"enabled": True}})


@pytest.mark.parametrize("text", ["", "a: b: c", "- a", "text"])
def test_an_overlay_of_ones_own_without_settings(tmp_path: Path, text: str) -> None:
    assert own_overlay(tmp_path) == {}
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(MarsError, match=r"own\.yaml has no settings of Dagster: write them in YAML"):
        own_overlay(tmp_path)


@pytest.mark.parametrize("home", ["", "relative/folder", "~nobody_at_all/x"])
def test_no_folder_for_the_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home)
    assert main(["--lake", str(tmp_path / "lake"), "init"]) == 1
    assert capsys.readouterr().err.startswith("mars-assets: ")
    assert not (tmp_path / "lake").exists()


def test_folders_that_dagster_cannot_use(tmp_path: Path) -> None:
    for name in ("what?", "%41"):
        with pytest.raises(MarsError, match="rename it"):
            write_instance_settings(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(MarsError, match="is a file"):
        write_instance_settings(tmp_path / "file")


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [
        ({}, {"a": {"b": 1, "c": [1, 2]}, "d": "text"}),
        ({"a": {"b": 2}}, {"a": {"b": 2, "c": [1, 2]}, "d": "text"}),
        ({"a": {"b": None, "e": {"f": 3, "g": None}}}, {"a": {"c": [1, 2], "e": {"f": 3}}, "d": "text"}),
        ({"a": {"c": [3]}, "d": None}, {"a": {"b": 1, "c": [3]}}),
        ({"a": 5, "d": {"h": 6}}, {"a": 5, "d": {"h": 6}}),
        ({"absent": None}, {"a": {"b": 1, "c": [1, 2]}, "d": "text"}),
    ],
)
def test_overlays_are_merged_as_json_merge_patch_does(overlay: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = {"a": {"b": 1, "c": [1, 2]}, "d": "text"}
    assert merged(settings, overlay) == expected
    assert settings == {"a": {"b": 1, "c": [1, 2]}, "d": "text"}


def test_overlays_name_secrets_and_do_not_hold_them() -> None:
    files = sorted(OVERLAYS.glob("dagster.*.yaml"))
    assert files
    for path in files:
        for name, value in _leaves(yaml.safe_load(path.read_bytes())):
            assert "password" not in name or name.endswith("env"), f"{path}: {name}: {value}"


def _leaves(settings: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(settings, dict):
        yield name, settings
        return
    for key, value in settings.items():
        yield from _leaves(value, f"{name}.{key}")


def test_later_overlays_win(tmp_path: Path) -> None:
    (tmp_path / "dagster.one.yaml").write_text("telemetry: null\nnux: {enabled: true}\n")
    (tmp_path / "dagster.two.yaml").write_text("nux: {enabled: maybe}\n")
    project = yaml.safe_load(PROJECT_SETTINGS.read_bytes())
    del project["telemetry"]
    assert overlaid_settings(["one", "two"], tmp_path) == project | {"nux": {"enabled": "maybe"}}
