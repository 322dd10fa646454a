"""A task that the project does not know is trained, swept, promoted, evaluated and predicted without a change
elsewhere.
"""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mars_assets.assets.evaluation import evaluation_asset
from mars_assets.assets.experiments import experiments_asset
from mars_assets.assets.models import model_asset
from mars_assets.assets.predictions import predictions_asset
from mars_assets.datasets import STAGE
from mars_assets.experiments.run import SweepJob, run_sweep
from mars_assets.experiments.sweep import Sweep, plan
from mars_assets.experiments.table import pooled
from mars_assets.labels.build import build_labelled_crops
from mars_assets.labels.table import current_label_version, read_labelled_crops
from mars_assets.lake import Lake
from mars_assets.models.evaluate import evaluate_current
from mars_assets.models.predict import predict_unlabelled
from mars_assets.models.train import VersionJob, recipe_in_use, train_version
from mars_assets.models.versions import current_model, set_current_weights
from mars_assets.prithvi.weights import open_weights
from mars_assets.resources import ComputeResource, LakeResource
from mars_assets.storage.files import read_table, write_table
from mars_assets.tensors.stages import make_imputed, make_reflectance
from mars_assets.training.compute import Compute
from mars_assets_tests.models.brightness import BRIGHTNESS, BrightnessRecipe, bright_and_dark

CPU = Compute("cpu", "fp32", 1, 1)
ASKED = {"compute": lambda: CPU, "asked_for": ("cpu", "fp32")}


@pytest.fixture
def labelled(lake: Lake, micro_weights: Path) -> Lake:
    lake.inbox.mkdir(parents=True)
    bright_and_dark(lake.inbox / "tiles.v1.folder.zip")
    build_labelled_crops(lake)
    make_reflectance(lake, read_labelled_crops(lake), current_label_version(lake))
    make_imputed(lake, "post_norm")
    shutil.copytree(micro_weights, lake.foundation("micro"))
    set_current_weights(lake, lake.foundation("micro"), open_weights(lake.foundation("micro")).sha256)
    return lake


def _train(lake: Lake, quantile: float, **options: Any) -> Any:
    recipe = BrightnessRecipe(quantile=quantile)
    return train_version(VersionJob(lake, BRIGHTNESS, recipe, compute=lambda: CPU, seed=1, **options))


@pytest.mark.slow
def test_it_is_trained_found_promoted_and_evaluated(labelled: Lake) -> None:
    bad = _train(labelled, 1.5)
    assert (bad.found, bad.is_in_use, bad.card) == (False, True, "")
    assert _train(labelled, 1.5).found
    first = evaluate_current(labelled, BRIGHTNESS, **ASKED)
    assert [row["split"] for row in first.rows] == ["valid", "test"]
    assert first.rows[1]["right"] < 1
    good = _train(labelled, 0.5, unless_worse=True)
    assert good.is_in_use
    assert "the new one replaces it" in str(good.comparison)
    assert not _train(labelled, 1.5, unless_worse=True).is_in_use
    assert current_model(labelled, "bright_model").version == good.model.version
    assert recipe_in_use(labelled, BRIGHTNESS, None).quantile == 0.5
    second = evaluate_current(labelled, BRIGHTNESS, **ASKED)
    assert second.computed
    assert second.rows[1]["right"] == 1
    assert second.rows[1]["change"] == pytest.approx(1 - first.rows[1]["right"])
    again = evaluate_current(labelled, BRIGHTNESS, **ASKED)
    assert not again.computed
    assert again.rows == second.rows
    pd.testing.assert_frame_equal(again.history, second.history)
    pd.testing.assert_frame_equal(
        again.report.tables["predicted"], second.report.tables["predicted"], check_dtype=False
    )
    # Rows that someone took out of the table are computed again.
    others = second.history[second.history["model_version"] != good.model.version]
    write_table(labelled.metrics("bright_evaluation"), others)
    restored = evaluate_current(labelled, BRIGHTNESS, **ASKED)
    assert restored.computed
    assert [row["right"] for row in restored.rows] == [row["right"] for row in second.rows]


@pytest.mark.slow
def test_it_is_swept_and_predicted(labelled: Lake) -> None:
    runs = plan(Sweep(grid={"quantile": [0.5, 1.5, 2.5]}, folds=2), BrightnessRecipe)
    rows, ran = run_sweep(SweepJob(labelled, BRIGHTNESS, runs, folds=2, compute=CPU))
    assert ran == len(rows) == 6
    together = pooled(labelled, BRIGHTNESS, rows)
    assert together["right"].iloc[0] == 1
    assert together["missing"].iloc[-1] == "part 1: there is no such quantile; part 2: there is no such quantile"
    assert run_sweep(SweepJob(labelled, BRIGHTNESS, runs, folds=2, compute=CPU))[1] == 0
    _train(labelled, 0.5)
    found = predict_unlabelled(labelled, BRIGHTNESS, lambda: CPU)
    assert read_table(labelled.metrics("bright_predictions"), "bright_predictions")["bright"].sum() == 18
    assert predict_unlabelled(labelled, BRIGHTNESS, lambda: CPU).key == found.key


@pytest.mark.slow
def test_its_assets_are_made_by_the_factories(labelled: Lake) -> None:
    factories = (model_asset, evaluation_asset, predictions_asset, experiments_asset)
    assets = [factory(BRIGHTNESS) for factory in factories]
    resources = {"lake": LakeResource(root=str(labelled.root)), "compute": ComputeResource(device="cpu")}
    above = [dg.AssetSpec(name) for name in ("labelled_crops", STAGE, "prithvi_weights", "mars_weights", "crops")]
    config = {"ops": {"bright_experiments": {"config": {"grid": {"quantile": [0.4, 0.5]}}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([*assets, *above], resources=resources, run_config=config, instance=instance)
        shown = {
            event.asset_key.to_user_string(): event.materialization.metadata
            for event in result.get_asset_materialization_events()
        }
    assert set(shown) == {"bright_model", "bright_evaluation", "bright_predictions", "bright_experiments"}
    assert "data:image/" in str(shown["bright_evaluation"]["brightness"].value)
    assert shown["bright_evaluation"]["right"].value == 1
    assert shown["bright_experiments"]["new runs"].value == 2


def test_without_what_is_shown_nothing_is_computed_again(labelled: Lake) -> None:
    """Presentation guards no computation: only the description is drawn again."""
    resources = {"lake": LakeResource(root=str(labelled.root)), "compute": ComputeResource(device="cpu")}
    _train(labelled, 0.5)
    asset = evaluation_asset(BRIGHTNESS)
    above = [dg.AssetSpec(name) for name in ("labelled_crops", STAGE, "bright_model")]

    def described() -> dict[str, Any]:
        with dg.DagsterInstance.ephemeral() as instance:
            result = dg.materialize([asset, *above], resources=resources, instance=instance)
            (event,) = result.get_asset_materialization_events()
        return {name: value.value for name, value in event.materialization.metadata.items()}

    first, history = described(), labelled.metrics("bright_evaluation").read_bytes()
    shutil.rmtree(labelled.root / "shown")
    second = described()
    assert (first.pop("computed in this run"), second.pop("computed in this run")) == (True, False)
    assert second == first
    assert labelled.metrics("bright_evaluation").read_bytes() == history
