import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mars_assets import demo
from mars_assets.craters.catalogue_files import update_catalogue
from mars_assets.demo import dagster, print_frequencies, print_map, print_results, run_demo, scene_to_map
from mars_assets.errors import MarsError
from mars_assets.lake import Lake
from mars_assets.models.report import write_report
from mars_assets.models.task import Report
from mars_assets.storage.files import write_json, write_table
from mars_assets_tests.craters.lakes import field, put_map, scene_around


def test_somebodys_own_lake_is_left_alone(lake: Lake) -> None:
    lake.root.mkdir()
    lake.observations_csv.write_text("id\nESP_011472_1225\n")
    with pytest.raises(MarsError, match=r"observations\.csv"):
        run_demo(lake)
    assert lake.observations_csv.read_text() == "id\nESP_011472_1225\n"


@pytest.mark.process
def test_a_failed_command_ends_the_demo_and_leaves_its_log(lake: Lake, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "demo.log"
    with pytest.raises(MarsError, match=r"exit code 1.*demo\.log"):
        dagster(
            ["asset", "materialize", "--select", "labelled_crops"], {**os.environ, "MARS_LAKE": str(lake.root)}, log
        )
    shown = capsys.readouterr().out
    assert "$ dagster asset materialize --select labelled_crops" in shown
    assert "no usable export in" in shown
    assert "Traceback" not in shown
    assert "Stack Trace" in log.read_text()


def test_results_are_shown_with_their_intervals(lake: Lake, capsys) -> None:
    def scored(split: str, measured: str, *names: str) -> dict:
        values = {n + s: v for n in names for s, v in (("", 0.5), ("_low", 0.4), ("_high", 0.6))}
        return {"split": split, "n": 9, "measured": measured, **values}

    losses = {n + s: 0.1 for n in ("model_loss", "rgb_loss", "psnr", "ssim") for s in ("", "_low", "_high")}
    write_json(lake.metrics("reconstruction").with_suffix(".json"), [{"method": "means", "n_images": 7, **losses}])
    for name, metrics in (
        ("cls_evaluation", ("accuracy", "balanced_accuracy", "auroc")),
        ("seg_evaluation", ("iou_crater", "miou", "crater_f1")),
    ):
        rows = [scored("old", "2026-01-01", *metrics), scored("test", "2026-01-02", *metrics)]
        write_json(lake.metrics(name).with_suffix(".json"), rows)
    print_results(lake)
    shown = capsys.readouterr().out
    assert shown.count("0.500 [0.400, 0.600]") == 6, "the newest evaluation of each model"
    assert "0.100 [0.100, 0.100]" in shown
    assert str(lake.root / "models") in shown


@pytest.mark.slow
def test_dagster_takes_the_commands(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what they do: Dagster parses them, and answers with its help."""
    commands: list[list[str]] = []
    monkeypatch.setattr(demo, "make_sample", lambda lake, **_: lake.sample.mkdir(parents=True))
    monkeypatch.setattr(
        demo, "read_table", lambda *_: pd.DataFrame({"observation": ["ESP_1", "ESP_2"], "split": "test"})
    )
    monkeypatch.setattr(demo, "dagster", lambda arguments, *_: commands.append(list(arguments)))
    monkeypatch.setattr(demo, "print_results", lambda _: None)
    monkeypatch.setattr(demo, "print_map", lambda *_: None)
    monkeypatch.setattr(demo, "print_frequencies", lambda *_: None)
    run_demo(lake)
    assert len(commands) == 5
    for arguments in commands:
        command = [
            str(Path(sys.executable).with_name("dagster")),
            *arguments,
            "-m",
            "mars_assets.definitions",
            "--help",
        ]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        if "-c" in arguments:
            assert yaml.safe_load(Path(arguments[arguments.index("-c") + 1]).read_text())["ops"]


def test_a_map_is_shown_beside_the_truth(lake: Lake, capsys) -> None:
    truth = pd.DataFrame(
        {"observation": "ESP_1", "split": "test", "x": [50.0, 150.0, 250.0], "y": 50.0, "diameter": [20.0, 30.0, 40.0]}
    )
    other = truth.assign(observation="ESP_0", split="train")
    write_table(lake.sample / "ground_truth.parquet", pd.concat([truth, other]))
    assert scene_to_map(lake) == "ESP_1"
    folder = lake.crater_map("ESP_1")
    found = pd.DataFrame({"x_px": [50.0, 150.0, 400.0], "y_px": 50.0, "diameter_px": [22.0, 33.0, 25.0]})
    write_table(folder / "craters.parquet", found)
    write_json(folder / "provenance.json", {"smallest_px": 16.0, "counted_m2": 2.5e6})
    print_map(lake, "ESP_1")
    shown = capsys.readouterr().out
    assert "2.5 km2 counted, 3 craters of 16 pixels or more" in shown
    assert "precision 0.67" in shown
    assert "recall    0.67" in shown
    assert "+10.0 % on average" in shown
    assert str(folder / "map.html") in shown


def test_densities_are_shown_beside_the_truth(lake: Lake, capsys) -> None:
    put_map(lake, scene_around("A", (10, 5), field(np.random.default_rng(0), 20, (6000, 4000))), counted_share=0.5)
    update_catalogue(lake)
    row = {"counts": "raw", "diameter_from_m": 4.0, "partial": True} | dict.fromkeys(
        ("at_least_per_km2", "at_least_per_km2_low", "at_least_per_km2_high"), 99.0
    )
    densities = {"at_least_per_km2": 7.4, "at_least_per_km2_low": 6.0, "at_least_per_km2_high": 9.0}
    complete = row | {"partial": False, "diameter_from_m": 8.0} | densities
    larger = complete | {"diameter_from_m": 16.0, "at_least_per_km2": 2.1}
    rows = [row, complete, larger, complete | {"counts": "labels"}]
    write_table(lake.metrics("size_frequency"), pd.DataFrame(rows), {"key": "k"})
    complete_from = pd.DataFrame({"complete_m": [9.0]})
    write_report(lake, "size_frequency", "k", Report({}, {"complete from": complete_from}, {}))
    # Half of 48 km2 is counted. At half a metre, 16 pixels are 8 m.
    truth = pd.DataFrame({"observation": ["A"] * 480 + ["B"], "diameter": [17.0] * 240 + [15.0] * 240 + [90.0]})
    write_table(lake.sample / "ground_truth.parquet", truth)
    print_frequencies(lake, "A")
    shown = capsys.readouterr().out
    assert "Craters of 8.0 m or more per km2, where the count is not complete, with" in shown
    assert "Craters of 16.0 m or more per km2, where the count is complete, with" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["as", "counted", "7", "[6,", "9]"] in lines
    assert ["corrected,", "labels", "7", "[6,", "9]"] in lines
    assert ["in", "truth", "5"] in lines
    assert ["as", "counted", "2", "[6,", "9]"] in lines
    assert not any("99" in line for line in lines)
