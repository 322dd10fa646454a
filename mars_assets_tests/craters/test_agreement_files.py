"""What `mars-assets compare` writes and prints."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mars_assets import cli
from mars_assets.craters.agreement import compare_lists
from mars_assets.craters.agreement_files import in_words, shown_rows
from mars_assets.craters.catalogues.reading import read_craters
from mars_assets.craters.formats import write_catalogue
from mars_assets.storage.files import read_json, write_json
from mars_assets_tests.craters.maps import random_map

pytestmark = pytest.mark.slow

FILES = ["comparison.csv", "comparison.json", "comparison.png", "matches.csv"]


def make_map(folder: Path, *, projected: bool) -> Path:
    """The files of a map that a comparison reads."""
    crater_map = random_map(60, projected=projected)
    write_catalogue(crater_map, folder)
    grid = {"crs": crater_map.crs, "transform": crater_map.transform, "lines": 3000, "samples": 2000}
    write_json(folder / "provenance.json", {"scene": crater_map.scene, "smallest_px": 8, "grid": grid})
    return folder


def make_theirs(folder: Path, path: Path, *, projected: bool) -> pd.DataFrame:
    """The map's craters without every fourth, 5 % wider."""
    craters = pd.read_parquet(folder / "craters.parquet").iloc[np.arange(60) % 4 > 0]
    names = ["longitude", "latitude", "diameter_m"] if projected else ["x_px", "y_px", "diameter_px"]
    theirs = craters[names].assign(**{names[2]: craters[names[2]] * 1.05})
    theirs.to_csv(path, index=False)
    return craters


@pytest.mark.parametrize("projected", [True, False])
def test_a_map_against_a_file(tmp_path: Path, projected: bool, capsys: pytest.CaptureFixture[str]) -> None:
    ours = make_map(tmp_path / "map", projected=projected)
    theirs = make_theirs(ours, tmp_path / "theirs.csv", projected=projected)
    out = tmp_path / "out" / "here"
    assert cli.main(["compare", str(ours), str(tmp_path / "theirs.csv"), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    said = capsys.readouterr().out
    about = read_json(out / "comparison.json")
    counted = int(theirs["counted"].sum())
    assert about["unit"] == ("m" if projected else "px")
    assert f"and {counted} of theirs.csv count, from {about['smallest']:.4g}" in said
    assert "recall 1.000 [" in said
    assert "diameters are -4.8 % on average" in said
    rows = pd.read_csv(out / "comparison.csv")
    assert rows.loc[0, ["theirs", "found", "recall"]].tolist() == [counted, counted, 1]
    assert rows.loc[0, "ln_d"] == pytest.approx(-np.log(1.05))
    assert len(about["rows"]) == len(rows)
    matches = pd.read_csv(out / "matches.csv")
    false = matches[matches["kind"] == "false"]
    assert false["theirs"].isna().all()
    assert ((false["ours"] - 1) % 4 == 0).all(), "rows of the map's table"
    found = matches[matches["kind"] == "found"]
    assert (found["theirs"] - 2 == (found["ours"] - 1) // 4 * 3 + (found["ours"] - 1) % 4 - 1).all(), "lines of the CSV"
    with Image.open(out / "comparison.png") as figure:
        assert figure.width > 1000


def test_files_of_a_map_compare_like_the_map(tmp_path: Path) -> None:
    ours = make_map(tmp_path / "map", projected=True)
    make_theirs(ours, tmp_path / "theirs.csv", projected=True)
    theirs = read_craters(tmp_path / "theirs.csv")
    expected = compare_lists(read_craters(ours), theirs).row("all")
    for name in ("craters.gpkg", "ESP_011472_1225.scc", "ESP_011472_1225_CRATER.shp"):
        row = compare_lists(read_craters(ours / name), theirs).row("all")
        assert (row["found"], row["theirs"]) == (expected["found"], expected["theirs"]), name


def test_what_cannot_be_compared_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = make_map(tmp_path / "map", projected=False)
    (tmp_path / "theirs.csv").write_text("lon,lat,diam\n1,2,3\n")
    out = tmp_path / "out"
    assert cli.main(["compare", str(ours), str(tmp_path / "theirs.csv"), "--out", str(out)]) == 1
    assert "has places and sizes in pixels and theirs.csv on the ground" in capsys.readouterr().err
    assert not out.exists()


def test_the_table_says_what_its_rows_are(tmp_path: Path) -> None:
    ours = make_map(tmp_path / "map", projected=True)
    make_theirs(ours, tmp_path / "theirs.csv", projected=True)
    agreement = compare_lists(read_craters(ours), read_craters(tmp_path / "theirs.csv"))
    table = shown_rows(agreement.rows, agreement.unit)
    assert {"at an overlap of 0.3", "15.62 to 22.1 m", "-30 to 0°", "0.9 to 1.0"} <= set(table["value"])
    assert table.loc[0, "recall"].startswith("1.000 [")
    assert "average precision" in table
    assert len(list(in_words(agreement))) == 8


@pytest.mark.parametrize("longitude", [0.0, 300.0])
def test_nothing_found_is_drawn_and_said(tmp_path: Path, longitude: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Where both looked there are false craters alone, or none at all."""
    for name, place in (("ours", longitude), ("theirs", 100.0)):
        (tmp_path / f"{name}.csv").write_text(f"lon,lat,diam\n{place},2,3\n")
    out = tmp_path / "out"
    assert cli.main(["compare", str(tmp_path / "ours.csv"), str(tmp_path / "theirs.csv"), "--out", str(out)]) == 0
    assert "0 are the same" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == FILES
