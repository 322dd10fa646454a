"""What is found wrong with cut crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mars_assets.imagery.checks import crop_problems
from mars_assets.imagery.schema import Crops
from mars_assets.lake import CROPS, Lake
from mars_assets.storage.files import write_table
from mars_assets_tests.tables import complete

SIDE = 32


def write_crops(lake: Lake, observation: str, count: int, calibrated: bool = True) -> list[Path]:
    """Crops as they are cut, with their manifest. Returns the pictures."""
    import rasterio

    folder = lake.crops(observation)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        name = f"{observation}_{n}"
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(folder / f"{name}.png")
        if calibrated:
            with rasterio.open(
                folder / f"{name}.tif", "w", driver="GTiff", height=SIDE, width=SIDE, count=3, dtype="uint16"
            ) as dataset:
                dataset.write(rng.integers(0, 1024, (3, SIDE, SIDE), np.uint16))
        dn_file = f"{name}.tif" if calibrated else None
        row = {"crop_id": name, "kept": True, "file": f"{name}.png", "dn_file": dn_file, "height": SIDE, "width": SIDE}
        rows.append(row)
    rows.append({"crop_id": "skipped", "kept": False, "file": None, "dn_file": None, "height": SIDE, "width": SIDE})
    write_table(folder / CROPS, complete(pd.DataFrame(rows), Crops), {})
    return sorted(folder.glob("*.png"))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("calibrated", [True, False])
def test_whole_crops(lake: Lake, calibrated: bool) -> None:
    write_crops(lake, "ESP_000001_1800", 3, calibrated)
    for _ in range(2):
        assert crop_problems(lake) == ([], 3)


def test_every_kind_of_damage_is_found_in_new_crops(lake: Lake) -> None:
    one, two, three, *_ = write_crops(lake, "ESP_000001_1800", 40)
    cut_off(one)
    cut_off(one.with_suffix(".tif"))
    two.unlink()
    two.with_suffix(".tif").unlink()
    Image.new("RGB", (SIDE, 8)).save(three)
    problems, count = crop_problems(lake)
    assert count == 40
    assert [problem.split(" ")[0] for problem in problems] == [
        *(one.name, one.with_suffix(".tif").name, two.name, two.with_suffix(".tif").name, three.name)
    ]
    assert sum("does not decode" in problem for problem in problems) == 2
    assert sum("is missing" in problem for problem in problems) == 2
    assert all("materialize 'crops' of ESP_000001_1800 again" in problem for problem in problems)


def test_what_cannot_be_read_is_a_problem_and_no_traceback(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    write_crops(lake, "ESP_000001_1800", 1)
    write_crops(lake, "ESP_000002_1800", 1)
    (lake.crops("ESP_000002_1800") / CROPS).write_bytes(b"PAR1 cut off")

    def refused(path: Path, **_: object) -> Image.Image:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refused)
    problems, _ = crop_problems(lake, ["ESP_000001_1800", "ESP_000002_1800", "ESP_000003_1800"])
    assert len(problems) == 3
    assert "Permission denied" in problems[0]
    assert "crops.parquet" in problems[1]
    assert "ESP_000003_1800" in problems[2]


def test_the_work_of_a_check_is_that_of_its_observations(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run for each of many observations: no check looks at the others, and a second one only at some."""
    decoded: list[str] = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **how: decoded.append(path.name) or real(path, **how))
    for n in range(3):
        write_crops(lake, f"ESP_00000{n}_1800", 40)
        assert crop_problems(lake, [f"ESP_00000{n}_1800"]) == ([], 40)
    assert len(decoded) == len(set(decoded)) == 120
    decoded.clear()
    assert crop_problems(lake) == ([], 120)
    assert 3 * 16 <= len(decoded) <= 3 * 20
