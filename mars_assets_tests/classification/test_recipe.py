"""Recipes: the paper's numbers, run configuration, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from mars_assets.classification.recipe import ClsRecipe, recipe_of, stated_recipe_of
from mars_assets.experiments.sweep import Sweep, plan

RECIPES = Path(__file__).parents[2] / "recipes"


def _recipe(name: str) -> ClsRecipe:
    return ClsRecipe(**yaml.safe_load((RECIPES / name).read_text())["ops"]["cls_model"]["config"])


def test_the_papers_recipe_has_the_papers_numbers():
    paper = _recipe("cls_paper.yaml")
    assert (paper.pooling, paper.dropout, paper.mask_ratio, paper.augment) == ("class_token", 0.5, 0.375, "none")
    assert (paper.optimizer, paper.lr, paper.layer_decay, paper.weight_decay) == ("adam", 8.2e-6, 1, 0)
    assert (paper.batch_size, paper.steps, paper.warmup_steps, paper.schedule) == (4, 2000, 2000, "constant")
    assert (paper.label_smoothing, paper.average_weights, paper.patience, paper.frozen) == (0, 0, 0, False)


def test_the_quick_recipe_is_valid_and_short():
    assert _recipe("cls_quick.yaml").steps < 10


@pytest.mark.parametrize(
    "wrong", [{"dropout": 1.0}, {"mask_ratio": -0.1}, {"encoder": "resnet"}, {"learning_rate": 1.0}]
)
def test_a_wrong_or_unknown_field_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ClsRecipe(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"architecture": "resnet18", "mask_ratio": 0.5}, r"mask_ratio\n.*0\.5 is for prithvi and does nothing"),
        ({"architecture": "resnet18", "pooling": "class_token"}, r"pooling\n.*does nothing with resnet18: leave it"),
        ({"architecture": "resnet18", "encoder": "mars_weights"}, r"encoder\n.*does nothing with resnet18"),
        ({"imagenet": True}, r"imagenet\n.*prithvi has no ImageNet weights"),
        ({"steps": 30}, r"warmup_steps\n.*a warm-up of 40 steps in a training of 30 never reaches lr"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused_unless_it_is_of_a_finished_model(wrong, message):
    with pytest.raises(ValidationError, match=message):
        ClsRecipe(**wrong)
    kept = stated_recipe_of({"recipe": wrong})
    assert wrong.items() <= kept.model_dump().items()


def test_what_only_repeats_what_is_so_is_no_contradiction():
    baseline = ClsRecipe(architecture="resnet18", imagenet=True, mask_ratio=0.0)
    assert ClsRecipe(**baseline.model_dump()) == baseline
    assert ClsRecipe(**ClsRecipe(architecture="resnet18").model_dump()).mask_ratio == 0.375
    assert ClsRecipe(steps=30, warmup_steps=30).warmup_steps == 30


def test_recipes_of_before_a_setting_have_what_was_done_then():
    recipe = stated_recipe_of({"recipe": {"steps": 50}})
    assert (recipe.normalize, recipe.all_orientations, recipe.draw) == ("statistics", False, "images")
    assert stated_recipe_of({"recipe": ClsRecipe().model_dump()}) == ClsRecipe()


def test_a_size_that_was_left_to_the_images_is_that_of_the_training():
    config = {"recipe": ClsRecipe().model_dump(), "report": {"image_size": 112}}
    assert recipe_of(config) == ClsRecipe(image_size=112)
    assert recipe_of({"recipe": ClsRecipe(image_size=64).model_dump(), "report": {}}).image_size == 64


@pytest.mark.parametrize(
    "file", sorted(RECIPES.glob("cls_*.yaml")) + sorted(RECIPES.glob("sweeps/cls_*.yaml")), ids=str
)
def test_the_recipes_that_come_along_are_accepted(file):
    ops = yaml.safe_load(file.read_text())["ops"]
    assert (
        plan(Sweep(**ops["cls_experiments"]["config"]), ClsRecipe) if "cls_experiments" in ops else _recipe(file.name)
    )


@pytest.mark.parametrize(
    ("modules", "not_loaded"),
    [
        (
            ("classification.recipe", "classification.evaluate", "classification.figures"),
            ("torch", "timm", "rasterio", "lightning_fabric", "matplotlib", "sklearn"),
        ),
        # A second and 100 MB, which only segmentation needs.
        (("classification.train", "classification.predict", "pretraining.train", "reconstruction.table"), ("mmseg",)),
    ],
)
def test_modules_import_no_libraries_that_only_others_need(modules, not_loaded):
    imports = ", ".join(f"mars_assets.{name}" for name in modules)
    code = f"import sys, {imports}; print([name for name in {not_loaded!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
