"""The recipes' base: version names that never change, settings of earlier versions, and the paper's recipes in full."""

import json
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pytest
import yaml
from dagster_shared.yaml_utils import merge_yamls
from pydantic import ValidationError

from mars_assets.assets.models import model_config
from mars_assets.assets.run_config import recipe_from
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.experiments.sweep import Sweep, plan
from mars_assets.pretraining.recipe import PretrainRecipe
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.segmentation.task import SEGMENTATION
from mars_assets.storage.hashing import fingerprint
from mars_assets.training.recipe import TrainingRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
VERSIONS: dict[str, str] = json.loads((Path(__file__).parent / "versions.json").read_text())
"""Fingerprints at the commit before the recipes had a base, by recipe files, and by variant for a sweep."""


def recipe_of(files: str) -> TrainingRecipe:
    """The recipe in files as Dagster merges them: ``-c FILE -c FILE``."""
    ((asset, step),) = merge_yamls([str(RECIPES / file) for file in files.split()])["ops"].items()
    return {"cls_model": ClsRecipe, "seg_model": SegRecipe}[asset](**step["config"])


def present_recipes() -> dict[str, TrainingRecipe]:
    recipes: dict[str, TrainingRecipe] = {kind.__name__: kind() for kind in (ClsRecipe, SegRecipe, PretrainRecipe)}
    for path in RECIPES.glob("*.yaml"):
        recipes[path.name] = recipe_of(path.name)
        for change in (RECIPES / path.stem).glob("*.yaml"):
            name = f"{path.name} {path.stem}/{change.name}"
            recipes[name] = recipe_of(name)
    for path in RECIPES.glob("sweeps/*.yaml"):
        ((asset, step),) = yaml.safe_load(path.read_text())["ops"].items()
        kind = {"cls_experiments": ClsRecipe, "seg_experiments": SegRecipe}[asset]
        for run in plan(Sweep(**step["config"]), kind):
            recipes[f"sweeps/{path.name}: {run.name}"] = run.recipe
    return recipes


def test_versions_keep_their_names() -> None:
    named = {name: fingerprint(recipe.identity())[:12] for name, recipe in present_recipes().items()}
    assert {name: version for name, version in VERSIONS.items() if name in named} == named
    assert len(named) > 90


def test_a_recipe_of_an_earlier_version_loads() -> None:
    recipe = SegRecipe(steps=40, warmup_steps=4)
    assert SegRecipe(**recipe.identity()) == recipe
    assert SegRecipe(iterations=40, warmup_iterations=4) == recipe  # type: ignore[call-arg]
    runs = plan(Sweep(base={"warmup_iterations": 4}, variants={"a": {"iterations": 40}}), SegRecipe)
    assert [run.recipe for run in runs] == [recipe]
    with pytest.raises(ValidationError, match="steps and iterations, its former name, are both set: remove iterations"):
        SegRecipe(iterations=40, steps=50)  # type: ignore[call-arg]


class OlderRecipe(PretrainRecipe):
    RETIRED: ClassVar = {"blur": 0.0}


def test_a_retired_setting_is_accepted_where_it_had_no_effect_and_stays_part_of_the_identity() -> None:
    assert OlderRecipe(blur=0.0) == OlderRecipe()  # type: ignore[call-arg]
    assert OlderRecipe().identity() == PretrainRecipe().identity() | {"blur": 0.0}
    with pytest.raises(ValidationError, match="blur no longer exists: remove it"):
        OlderRecipe(blur=1.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "config", [{"iterations": 40, "warmup_iterations": 4}, {"steps": 40, "warmup_steps": 4}], ids=str
)
def test_a_run_configuration_of_an_earlier_version_is_accepted(config: dict[str, Any]) -> None:
    seen = []

    @dg.op
    def seg_model(config: model_config(SEGMENTATION)) -> None:
        seen.append(recipe_from(config, SegRecipe))

    @dg.job
    def job() -> None:
        seg_model()

    job.execute_in_process(run_config={"ops": {"seg_model": {"config": config}}})
    assert seen == [SegRecipe(steps=40, warmup_steps=4)]


@pytest.mark.parametrize("name", ["cls_paper", "seg_paper"])
def test_the_papers_recipes_leave_nothing_to_a_default(name: str) -> None:
    (step,) = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["ops"].values()
    recipe = ClsRecipe if name == "cls_paper" else SegRecipe
    assert set(step["config"]) == set(recipe.model_fields)


def test_the_papers_sweep_leaves_nothing_to_a_default() -> None:
    (step,) = yaml.safe_load((RECIPES / "sweeps" / "seg_paper.yaml").read_text())["ops"].values()
    assert set(step["config"]["base"]) == set(SegRecipe.model_fields)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_change_to_a_recipe_names_the_recipe_that_it_belongs_to(path: Path) -> None:
    folder = path.parent.name
    command = f"-c recipes/{folder}.yaml -c recipes/{folder}/{path.name}"
    assert folder == "sweeps" or command in path.read_text()
