from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from pydantic import ValidationError

from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.storage.hashing import fingerprint

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("seg_*.yaml")) + sorted(FOLDER.glob("seg_*/*.yaml"))
CHANGES = {
    "wce_0.2_0.8_filled": {"loss": "weighted_cross_entropy", "class_weights": [0.2, 0.8]},
    "wce_0.05_0.95_filled": {"loss": "weighted_cross_entropy", "class_weights": [0.05, 0.95]},
    "dice_outline_5": {"annotation": "outline_5"},
    "dice_outline_15": {"annotation": "outline_15"},
    "wce_0.05_0.95_outline_15": {
        "annotation": "outline_15",
        "loss": "weighted_cross_entropy",
        "class_weights": [0.05, 0.95],
    },
}
"""The paper's runs after the first: Dice on filled craters."""


class RecipeConfig(SegRecipe, dg.Config):
    pass


def _config(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())["ops"]["seg_model"]["config"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_file_is_valid_run_config(path: Path):
    """Every value must survive Dagster's own config types as well as the recipe's."""
    seen = []

    @dg.op
    def seg_model(config: RecipeConfig) -> None:
        seen.append(SegRecipe(**config.model_dump()))

    @dg.job
    def job() -> None:
        seg_model()

    job.execute_in_process(run_config=yaml.safe_load(path.read_text()))
    assert seen[0].model_dump() == {**SegRecipe().model_dump(), **_config(path)}


def test_the_papers_six_runs_differ_in_loss_and_annotation_only():
    assert {path.stem: _config(path) for path in FOLDER.glob("seg_paper/*.yaml")} == CHANGES
    config = _config(FOLDER / "seg_paper.yaml")
    assert (config["annotation"], config["loss"], config["lr"]) == ("filled", "dice", 1.3e-5)
    assert (config["neck_channels"], config["head_channels"]) == (768, 256)
    assert (config["steps"], config["warmup_steps"], config["batch_size"]) == (10000, 1500, 4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"class_weights": [1.0]}, "class_weights"),
        ({"class_weights": [0.0, 1.0]}, "positive"),
        ({"stride": 300}, "gaps"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"neck": "pyramid", "batch_size": 1}, "batch_size of at least 2"),
        ({"smallest_crater": 9.0, "annotation": "outline_5"}, "smallest_crater needs"),
        ({"scales": [0.01]}, "between 0.1 and 8"),
        ({"local_contrast": 8}, "give an odd number"),
        ({"local_contrast": 1}, "no contrast to itself"),
        ({"local_contrast": 9, "neck": "pyramid"}, "local_contrast needs"),
        ({"local_contrast": 9, "architecture": "unet"}, "local_contrast needs"),
    ],
)
def test_a_contradictory_recipe_is_refused(fields: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        SegRecipe(**fields)


@pytest.mark.parametrize("config", [{}, {"magnify": 1}, {"magnify": 1.0}], ids=str)
def test_a_number_that_dagster_made_a_fraction_of_names_the_same_version(config: dict[str, Any]):
    named = []

    @dg.op
    def seg_model(config: RecipeConfig) -> None:
        named.append(fingerprint(SegRecipe(**config.model_dump()).model_dump()))

    @dg.job
    def job() -> None:
        seg_model()

    job.execute_in_process(run_config={"ops": {"seg_model": {"config": config}}})
    assert named == [fingerprint(SegRecipe().model_dump())]
    assert SegRecipe(magnify=0.5).magnify == 0.5


def test_retired_settings_leave_recipes_readable_and_versions_as_they_were():
    former = {"authors_pairing": False, "boundary_weight": 0.0}
    assert SegRecipe(**former) == SegRecipe()
    assert former.items() <= SegRecipe().identity().items()
    for used in ({"authors_pairing": True}, {"boundary_weight": 1.0}):
        with pytest.raises(ValidationError, match="no longer exists"):
            SegRecipe(**used)
