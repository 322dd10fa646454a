"""The lake's addresses stand in one module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mars_assets
from mars_assets.errors import MarsError, MissingInputError
from mars_assets.lake import Lake

PACKAGE = Path(mars_assets.__file__).parent
FILE_NAME = re.compile(r"\w[\w.]*\.(parquet|json|csv|md|png|tif|gpkg|safetensors|pth|pt|ckpt)")
NOT_IN_THE_LAKE = {
    "cli.py": {"predictions.parquet", "craters.csv"},  # where a command writes by default
    "labels/formats/coco.py": {"_annotations.coco.json"},  # entries of an export
    "labels/formats/tables.py": {"_classes.csv", "_mask.png"},
    "prithvi/config.py": re.compile(r"Prithvi_EO_.*\.pt"),  # files on the hub
    "sample/make.py": {"sample.json", "ground_truth.parquet"},  # in the sample's archive
    "sample/pretrain.py": {"pretrain.pt", "settings.json"},  # in its working folder
    "storage/published.py": {"current.json"},  # in any folder of versions
    "storage/claims.py": {"claim.json"},  # in any folder of unfinished work
    # The state of a training that is under way, which only that training reads.
    "classification/train.py": {"last.pt"},
    "pretraining/train.py": {"last.ckpt"},
    "segmentation/train.py": {"last.pth", "best.pth"},
    "segmentation/hooks.py": {"last.pth", "best.pth"},
}


def _addresses(path: Path) -> Iterator[str]:
    """What a module says itself about where files of a lake lie."""
    tree = ast.parse(path.read_text())
    excepted = NOT_IN_THE_LAKE.get(path.relative_to(PACKAGE).as_posix(), set())
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if FILE_NAME.fullmatch(text):
                if not (excepted.fullmatch(text) if isinstance(excepted, re.Pattern) else text in excepted):
                    yield text
            # LAKE.root / …, LAKE.ADDRESS / "…" and LAKE.ADDRESS(…) / "…"
            case ast.BinOp(op=ast.Div(), left=left, right=right):
                at = left.func if isinstance(left, ast.Call) else left
                if isinstance(at, ast.Attribute) and (
                    at.attr == "root" or (at.attr in vars(Lake) and isinstance(right, ast.Constant))
                ):
                    yield ast.unparse(node)
            # LAKE.metrics(…).with_suffix(…)
            case ast.Attribute(value=ast.Call(func=ast.Attribute(attr=name)), attr="with_suffix" | "with_name"):
                if name in vars(Lake):
                    yield ast.unparse(node)


def test_only_lake_py_says_where_a_file_lies() -> None:
    found = {path.relative_to(PACKAGE).as_posix(): list(_addresses(path)) for path in PACKAGE.rglob("*.py")}
    assert {module: addresses for module, addresses in found.items() if addresses and module != "lake.py"} == {}
    assert found["lake.py"]


def test_every_address_lies_in_the_lake_and_is_nobody_elses(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    given = {"metrics": ("t",), "figure": ("t", "f"), "version": ("m", "v")}
    no_address = {"at", "require", "relative", "inside", "root"}
    paths = {}
    for name in vars(Lake):
        if not name.startswith("_") and name not in no_address:
            value = getattr(lake, name)
            paths[name] = value if isinstance(value, Path) else value(*given.get(name, ("x",)))
    assert all(path.is_relative_to(lake.root) for path in paths.values())
    assert len(set(paths.values())) == len(paths) > 30
    assert lake.metrics("t", ".csv") == lake.metrics("t").with_suffix(".csv")


def test_a_stored_address_leads_nowhere_else(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path / "lake")
    path = lake.masks / "filled" / "a.png"
    assert lake.relative(path) == "labels/masks/filled/a.png"
    assert lake.inside(lake.relative(path)) == path
    for address in ("/etc/passwd", "../outside", "labels/../../outside"):
        with pytest.raises(MarsError, match=r"outside the lake .*: materialize"):
            lake.inside(address)


def test_a_lake_is_a_local_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for address, said in (("s3://bucket/lake", "Mount or copy the bucket"), (tmp_path / "file", "is a file")):
        with pytest.raises(MarsError, match=said):
            Lake.at(address)


def test_all_that_is_missing_is_named_with_the_command(tmp_path: Path) -> None:
    lake = Lake.at(tmp_path)
    lake.labels.mkdir()
    lake.labelled_crops.touch()
    lake.require({"labelled_crops": lake.labelled_crops})
    wanted = {
        "labelled_crops": lake.labelled_crops,
        "crops": lake.all_crops,
        "prithvi_weights": lake.current_foundation,
    }
    with pytest.raises(MissingInputError, match="--select crops,prithvi_weights"):
        lake.require(wanted)
