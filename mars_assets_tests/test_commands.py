"""The README's commands, as a person runs them: in a folder with the project's files, each in a process of its own."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
import torch

from mars_assets import cli
from mars_assets.bands import HLS_BANDS
from mars_assets.checkpoints import read_checkpoint
from mars_assets.classification.checkpoint import open_classifier
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.weights import load_encoder_state
from mars_assets.sample.server import serve
from mars_assets.storage.files import read_json, read_table
from mars_assets.tensors.geotiff import read_chip
from mars_assets_tests.real_subset import browse_archive, coco_subset, folder_subset
from mars_assets_tests.shell import DG, Shell, dagster_dev, kill_when

pytestmark = pytest.mark.process

OBSERVATION = "ESP_011472_1225"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "clone")


def test_missing_inputs(shell: Shell) -> None:
    code, output = shell.run("asset", "materialize", "--select", "cls_model")
    assert code == 1
    assert "dagster asset materialize --select labelled_crops,reflectance,imputed_post_norm,prithvi_weights" in output


def test_definitions_validate_without_the_variable(shell: Shell) -> None:
    code, output = shell.run("definitions", "validate", "-w", "workspace.yaml", module=False)
    assert code == 0, output


def test_dg_needs_no_variable(shell: Shell) -> None:
    code, output = shell.run("check", "defs", module=False, program=DG)
    assert code == 0, output
    code, output = shell.run("list", "defs", "--json", module=False, program=DG)
    assert code == 0, output
    assert len(json.loads(output[output.index("{") :])["assets"]) == 28
    code, output = shell.run("launch", "--assets", "cls_model", module=False, program=DG)
    assert code == 1
    assert "dagster asset materialize --select labelled_crops,reflectance,imputed_post_norm,prithvi_weights" in output
    shell.lake.observations_csv.parent.mkdir(exist_ok=True)
    shell.lake.observations_csv.write_text(f"id,note\n{OBSERVATION},the real one\n")
    code, output = shell.run("launch", "--assets", "observations", module=False, program=DG)
    assert code == 0, output
    assert shell.lake.observations.exists()


def test_a_fresh_clone_keeps_its_partitions_with_no_variable_set(shell: Shell, shared: Path) -> None:
    browse_archive(shared, shell.folder / "archive")
    shell.lake.observations_csv.parent.mkdir()
    shell.lake.observations_csv.write_text(f"id,note\n{OBSERVATION},the real one\n")
    with serve(shell.folder / "archive") as url:
        surroundings = {"MARS_HIRISE_ARCHIVE": url, "MARS_CONTACT": "tests"}
        shell.materialize("observations")
        shell.materialize("hirise_images,crops", "--partition", OBSERVATION, **surroundings)
    assert len(list(shell.lake.crops(OBSERVATION).glob("current/*.png"))) == 14
    # With the archive gone, what is there is found and not asked for again.
    assert "fetching" not in shell.materialize("hirise_images", "--partition-range", f"{OBSERVATION}...{OBSERVATION}")


@pytest.fixture
def labelled(shell: Shell, shared: Path) -> Shell:
    shell.lake.inbox.mkdir(parents=True)
    exports = shared / "data/exports"
    coco_subset(
        exports / "craters.v1.coco-segmentation.zip", shell.lake.inbox / "craters.v1.zip", {"train": 50, "valid": 4}
    )
    folder_subset(exports / "crater-tiles.v1.folder.zip", shell.lake.inbox / "tiles.v1.zip", {"train": 6, "valid": 4})
    shell.materialize("labelled_crops")
    return shell


def test_kill_in_a_tensor_stage_then_in_a_training(labelled: Shell) -> None:
    lake = labelled.lake
    folder = lake.tensors("reflectance")
    process = labelled.start("asset", "materialize", "--select", "reflectance")
    kill_when(process, lambda: len(list(folder.glob("[!.]*.tif"))) >= 10)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.tif")}
    for path in finished:
        read_chip(path, HLS_BANDS[:3])
    assert len(finished) < 74, "killed too late to show anything"
    assert not (folder / "manifest.parquet").exists()

    output = labelled.materialize("reflectance,imputed_post_norm,prithvi_weights")
    assert f"reflectance: {74 - len(finished)} chips computed, {len(finished)} existed" in output
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    recipe = labelled.folder / "long.yaml"
    recipe.write_text(
        json.dumps(
            {"ops": {"cls_model": {"config": {"batch_size": 2, "steps": 24, "warmup_steps": 2, "evaluate_every": 4}}}}
        )
    )
    process = labelled.start("asset", "materialize", "--select", "cls_model", "-c", str(recipe))
    kill_when(process, lambda: bool(list(lake.model("cls_model").glob("*/training/*/[!.]*.pt"))))
    assert not (lake.model("cls_model") / "current.json").exists()

    output = labelled.materialize("cls_model", "-c", str(recipe))
    assert "continuing the training after step" in output
    version = read_json(lake.model("cls_model") / "current.json")["version"]
    history = read_table(lake.model("cls_model") / version / "history.parquet", "cls_model")
    assert history["step"].tolist() == [4, 8, 12, 16, 20, 24]
    assert "nothing to train" in labelled.materialize("cls_model", "-c", str(recipe))

    exported = labelled.folder / "encoder.pt"
    assert cli.main(["--lake", str(lake.root), "export", "cls_model", str(exported)]) == 0
    classifier, config = open_classifier(lake.model("cls_model") / version)
    encoder, _ = load_encoder_state(PrithviConfig.from_dict(config["encoder"]), read_checkpoint(exported))
    table = labelled.folder / "probabilities.parquet"
    assert cli.main(["--lake", str(lake.root), "predict", str(lake.labels / "images"), "--out", str(table)]) == 0
    predicted = pd.read_parquet(table)
    assert len(predicted) == len(list((lake.labels / "images").iterdir()))
    assert predicted["probability"].between(0, 1).all()
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), classifier.encoder.parameters(), strict=True))


@pytest.fixture
def server(shell: Shell) -> Iterator[str]:
    with dagster_dev(shell.folder, shell.clean) as url:
        yield url


def test_dagster_dev_serves_the_graph(server: str) -> None:
    query = "{ assetNodes { assetKey { path } groupName description jobNames } }"
    for _ in range(60):
        answer: dict[str, Any] = requests.post(f"{server}/graphql", json={"query": query}, timeout=30).json()
        if answer["data"]["assetNodes"]:
            break
        time.sleep(1)
    nodes = {node["assetKey"]["path"][0]: node for node in answer["data"]["assetNodes"]}
    assert len(nodes) == 28
    assert nodes["cls_model"]["groupName"] == "models"
    assert "experiment" in nodes["cls_model"]["jobNames"]
