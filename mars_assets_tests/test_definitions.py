"""The graph as Dagster sees it. A change of it is a reviewed change of lineage.json: run with UPDATE_SNAPSHOTS=1."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mars_assets.bands import IMPUTATION_METHODS, SPECTRAL
from mars_assets.definitions import build_defs, defs
from mars_assets.resources.compute import GPU_POOL
from mars_assets.resources.lake import LAKE_POOL

PROJECT = Path(__file__).parent.parent
SNAPSHOT = Path(__file__).with_name("lineage.json")

# The assets of the design, with what each needs.
DESIGN = {
    "hirise_index": set(),
    "observations": {"hirise_index"},
    "hirise_images": {"observations"},
    "crops": {"hirise_images"},
    "roboflow_exports": set(),
    "labelled_crops": {"roboflow_exports", "crops"},
    "reflectance": {"labelled_crops"},
    "imputed_means": {"reflectance"},
    "imputed_pre_norm": {"reflectance"},
    "imputed_post_norm": {"reflectance"},
    "imputed_spectral": {"reflectance"},
    "prithvi_weights": set(),
    "encoder_weights": set(),
    "reconstruction_metrics": {
        "imputed_means",
        "imputed_pre_norm",
        "imputed_post_norm",
        "imputed_spectral",
        "prithvi_weights",
    },
    "mars_weights": {"crops", "labelled_crops", "prithvi_weights"},
    "cls_model": {"imputed_post_norm", "labelled_crops", "prithvi_weights", "mars_weights", "encoder_weights"},
    "seg_model": {"imputed_post_norm", "labelled_crops", "prithvi_weights", "mars_weights", "encoder_weights"},
    "cls_experiments": {"imputed_post_norm", "labelled_crops", "prithvi_weights", "mars_weights", "encoder_weights"},
    "seg_experiments": {"imputed_post_norm", "labelled_crops", "prithvi_weights", "mars_weights", "encoder_weights"},
    "transfer_study": {"imputed_post_norm", "labelled_crops", "prithvi_weights", "mars_weights", "encoder_weights"},
    "cls_predictions": {"cls_model", "crops", "labelled_crops"},
    "seg_predictions": {"seg_model", "crops", "labelled_crops", "seg_evaluation"},
    "crater_maps": {"hirise_images", "seg_model", "seg_evaluation"},
    "catalogue_comparison": {"crater_catalogue"},
    "size_frequency": {"crater_catalogue", "seg_evaluation"},
    "crater_catalogue": {"crater_maps"},
    "cls_evaluation": {"cls_model", "labelled_crops", "imputed_post_norm"},
    "seg_evaluation": {"seg_model", "labelled_crops", "imputed_post_norm"},
}


@pytest.fixture(scope="module")
def graph() -> Any:
    return defs.resolve_asset_graph()


def lineage(graph: Any) -> dict[str, Any]:
    described = {}
    for key in sorted(graph.get_all_asset_keys(), key=str):
        node = graph.get(key)
        described[key.to_user_string()] = {
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "pools": sorted(node.pools or ()),
            "code_version": node.code_version,
            "partitions": node.partitions_def.name if node.partitions_def else None,
            "checks": {
                check.name: "blocking" if graph.get_check_spec(check).blocking else "warning"
                for check in sorted(node.check_keys, key=lambda check: check.name)
            },
        }
    return described


def test_lineage_is_the_designs(graph: Any) -> None:
    assert {name: set(node["deps"]) for name, node in lineage(graph).items()} == DESIGN


def test_lineage_is_as_recorded(graph: Any) -> None:
    now = lineage(graph)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(now, indent=2) + "\n")
    assert now == json.loads(SNAPSHOT.read_text())


def test_every_asset_says_what_it_is(graph: Any) -> None:
    for key in graph.get_all_asset_keys():
        assert len(graph.get(key).description or "") > 60, key


def test_all_that_computes_with_torch_waits_for_the_device(graph: Any) -> None:
    takes_the_device = {
        "mars_weights",
        "reconstruction_metrics",
        "cls_model",
        "seg_model",
        "cls_evaluation",
        "seg_evaluation",
        "cls_experiments",
        "seg_predictions",
        "crater_maps",
        "size_frequency",
        "seg_experiments",
        "transfer_study",
        "cls_predictions",
    }
    pooled = {key.to_user_string() for key in graph.get_all_asset_keys() if GPU_POOL in (graph.get(key).pools or ())}
    assert pooled == takes_the_device


def test_all_that_writes_labels_and_tensors_waits_for_the_lake(graph: Any) -> None:
    writers = {"labelled_crops", "reflectance", *(f"imputed_{name}" for name in (*IMPUTATION_METHODS, SPECTRAL))}
    pooled = {key.to_user_string() for key in graph.get_all_asset_keys() if LAKE_POOL in (graph.get(key).pools or ())}
    assert pooled == writers


def test_jobs_resolve() -> None:
    assert {job.name for job in defs.resolve_all_job_defs()} >= {"imagery", "experiment", "reevaluate"}
    retraining = {"cls_model", "seg_model", "prithvi_weights", "mars_weights"}
    reevaluated = {key.to_user_string() for key in defs.resolve_job_def("reevaluate").asset_layer.executable_asset_keys}
    assert not reevaluated & retraining


def test_resources_can_be_replaced() -> None:
    from mars_assets.resources import LakeResource

    replaced = build_defs({"lake": LakeResource(root="elsewhere")})
    assert replaced.resources["lake"].root == "elsewhere"


@pytest.mark.slow
def test_loading_imports_none_of_the_heavy_packages() -> None:
    """Every step of a run loads the definitions in a process of its own."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    lazy = settings["flake8-tidy-imports"]["banned-module-level-imports"]
    script = "import sys, json, mars_assets.definitions; print(json.dumps(sorted(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    loaded = json.loads(process.stdout)
    assert {"torch", "timm", "mmseg", "rasterio", "matplotlib", "scipy", "sklearn"} <= set(lazy)
    assert not set(lazy) & set(loaded)
