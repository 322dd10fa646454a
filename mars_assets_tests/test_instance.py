"""Settings of a Dagster instance, in folders of any name."""

from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance

from mars_assets.cli import main
from mars_assets.errors import MarsError
from mars_assets.instance import PROJECT_SETTINGS, write_instance_settings

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
