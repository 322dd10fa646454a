from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from pydantic import ValidationError

from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.storage.hashing import fingerprint

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("seg_*.yaml"))
PAPER = {
    "seg_paper_dice_filled": ("filled", "dice", None),
    "seg_paper_wce_0.2_0.8_filled": ("filled", "weighted_cross_entropy", [0.2, 0.8]),
    "seg_paper_wce_0.05_0.95_filled": ("filled", "weighted_cross_entropy", [0.05, 0.95]),
    "seg_paper_dice_outline_5": ("outline_5", "dice", None),
    "seg_paper_dice_outline_15": ("outline_15", "dice", None),
    "seg_paper_wce_0.05_0.95_outline_15": ("outline_15", "weighted_cross_entropy", [0.05, 0.95]),
}


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
    configs = {name: _config(Path(RECIPES[0].parent / f"{name}.yaml")) for name in PAPER}
    for name, (annotation, loss, weights) in PAPER.items():
        config = configs[name]
        assert (config["annotation"], config["loss"]) == (annotation, loss)
        assert weights is None or config["class_weights"] == weights
        common = {key: value for key, value in config.items() if key not in ("annotation", "loss", "class_weights")}
        assert common["lr"] == 1.3e-5
        assert (common["neck_channels"], common["head_channels"]) == (768, 256)
        assert (common["iterations"], common["warmup_iterations"], common["batch_size"]) == (10000, 1500, 4)
        assert common == {
            key: value
            for key, value in configs["seg_paper_dice_filled"].items()
            if key not in ("annotation", "loss", "class_weights")
        }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"class_weights": [1.0]}, "class_weights"),
        ({"class_weights": [0.0, 1.0]}, "positive"),
        ({"stride": 300}, "gaps"),
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"neck": "pyramid", "batch_size": 1}, "batch_size of 2"),
        ({"smallest_crater": 9.0, "annotation": "outline_5"}, "filled craters"),
        ({"scales": [0.01]}, "between 0.1 and 8"),
        ({"local_contrast": 8}, "is odd"),
        ({"local_contrast": 1}, "no contrast to itself"),
        ({"local_contrast": 9, "neck": "pyramid"}, "for the detail neck"),
        ({"local_contrast": 9, "architecture": "unet"}, "for the detail neck"),
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
    former = {**SegRecipe().model_dump(), "authors_pairing": False, "boundary_weight": 0.0}
    assert SegRecipe(**former) == SegRecipe()
    assert SegRecipe().identity() == former
    for used in ({"authors_pairing": True}, {"boundary_weight": 1.0}):
        with pytest.raises(ValidationError, match="no longer exists"):
            SegRecipe(**used)
