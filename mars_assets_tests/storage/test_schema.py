"""Tables are written and read only if they fit their schema."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pandera.pandas import DataFrameModel

from mars_assets.craters.schema import CraterCatalogue
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError
from mars_assets.imagery.schema import Crops, Observations
from mars_assets.labels.schema import LabelledCrops
from mars_assets.storage.files import read_provenance, write_table
from mars_assets.storage.schema import checked, columns_of, conformed, read_checked, violations, write_checked
from mars_assets.tensors.schema import Chips
from mars_assets_tests.tables import complete

SCHEMAS = [LabelledCrops, Observations, Crops, Chips, CraterCatalogue]
LABELS = complete(
    pd.DataFrame({"image_id": ["a", "b"], "label": ["crater", None], "n_craters": [None, 3]}), LabelledCrops
)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_table_is_read_as_it_was_written(schema: type[DataFrameModel], tmp_path: Path) -> None:
    keys = {name: ["a", "b"] for name, column in schema.to_schema().columns.items() if column.unique}
    table = complete(pd.DataFrame(keys, index=range(2)), schema)
    for rows in (table, table.iloc[:0]):
        write_checked(tmp_path / "t.parquet", rows, schema, {"made": "here"})
        found = read_checked(tmp_path / "t.parquet", "asset", schema)
        pd.testing.assert_frame_equal(found, rows.reset_index(drop=True), check_dtype=bool(len(rows)))
    assert read_provenance(tmp_path / "t.parquet") == {"made": "here"}
    assert all(columns_of(schema).values()), "every column says what it means"
    assert list(columns_of(schema)) == list(table.columns)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image_id": "a"}, "image_id has a more than once"),
        ({"split": "val"}, "split has val, which violates isin"),
        ({"height": "high"}, "height has high, which violates coerce_dtype"),
        ({"crater_fraction": 1.5}, "crater_fraction has 1.5, which violates less_than_or_equal_to"),
        ({"group": None}, "group is empty in 2 rows"),
    ],
)
def test_what_breaks_a_rule_is_neither_written_nor_read(
    change: dict[str, object], problem: str, tmp_path: Path
) -> None:
    broken, path = LABELS.assign(**change), tmp_path / "t.parquet"
    assert [problem in said for said in violations(broken, LabelledCrops)] == [True]
    with pytest.raises(MarsError, match=problem):
        write_checked(path, broken, LabelledCrops)
    assert not path.exists()
    write_table(path, broken)
    with pytest.raises(DamagedFileError, match=rf"t\.parquet .*{problem}.*Materialize 'labelled_crops' again"):
        read_checked(path, "labelled_crops", LabelledCrops)


def test_all_problems_are_listed_at_once() -> None:
    broken = LABELS.drop(columns="file").assign(split="val", height=0)
    said = violations(broken, LabelledCrops)
    assert len(said) == 3
    assert "the column file is missing" in said


def test_a_newer_column_may_be_missing_where_a_table_is_read_but_not_where_it_is_written(tmp_path: Path) -> None:
    path, old = tmp_path / "t.parquet", LABELS.drop(columns=["phash", "exported_split", "outlines_sha"])
    write_table(path, old)
    assert list(read_checked(path, "labelled_crops", LabelledCrops).columns) == list(old.columns)
    with pytest.raises(MarsError, match="the column phash is missing"):
        write_checked(path, old, LabelledCrops)


def test_only_the_columns_that_are_read_are_checked(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", LABELS.assign(split="val"))
    rows = read_checked(tmp_path / "t.parquet", "labelled_crops", LabelledCrops, ["image_id", "n_craters"])
    assert rows["n_craters"].dtype == "Int32"
    assert list(rows.columns) == ["image_id", "n_craters"]
    with pytest.raises(DamagedFileError, match="split"):
        read_checked(tmp_path / "t.parquet", "labelled_crops", LabelledCrops, ["split"])
    with pytest.raises(MissingInputError):
        read_checked(tmp_path / "none.parquet", "labelled_crops", LabelledCrops)


def test_other_columns_are_left_alone() -> None:
    rows = LABELS.assign(model_version="v")
    assert conformed(rows, LabelledCrops, "it")["model_version"].tolist() == ["v", "v"]
    assert checked(rows, Path("p"), "labelled_crops", LabelledCrops).columns[-1] == "model_version"


@pytest.mark.process
def test_definitions_load_without_pandera() -> None:
    program = "import sys, mars_assets.definitions; print('pandera' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
