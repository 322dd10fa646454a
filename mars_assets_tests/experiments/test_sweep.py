"""Which runs a sweep stands for."""

from pathlib import Path

import pytest
import yaml

from mars_assets.classification.recipe import ClsRecipe
from mars_assets.errors import MarsError
from mars_assets.experiments.sweep import Sweep, plan, varied
from mars_assets.segmentation.recipe import SegRecipe


def test_variants_times_grid_times_seeds():
    sweep = Sweep(
        base={"steps": 70},
        variants={"a": {"pooling": "mean"}, "b": {"pooling": "class_token", "lr": 0.5}},
        grid={"dropout": [0.0, 0.5]},
        seeds=[1, 2],
    )
    runs = plan(sweep, ClsRecipe)
    assert [(run.name, run.recipe.dropout, run.seed) for run in runs] == [
        (name, dropout, seed) for name in "ab" for dropout in (0.0, 0.5) for seed in (1, 2)
    ]
    assert {run.recipe.steps for run in runs} == {70}
    assert [run.recipe.lr for run in runs if run.name == "b"] == [0.5] * 4
    assert varied(runs) == ["lr", "dropout", "pooling"]


def test_an_empty_sweep_is_the_default_recipe_once():
    assert plan(Sweep(), ClsRecipe) == [("", ClsRecipe(), 1, 0)]


def test_parts_are_runs_of_their_own():
    runs = plan(Sweep(grid={"lr": [0.1, 0.2]}, seeds=[1, 2], folds=3), ClsRecipe)
    assert [(run.recipe.lr, run.seed, run.fold) for run in runs[:4]] == [
        (0.1, 1, 0),
        (0.1, 1, 1),
        (0.1, 1, 2),
        (0.1, 2, 0),
    ]
    assert len(runs) == 12


def test_the_same_recipe_runs_once():
    assert len(plan(Sweep(variants={"a": {}, "b": {"lr": ClsRecipe().lr}}), ClsRecipe)) == 1


def test_draws_are_in_their_ranges_and_more_begin_with_the_same():
    random = {
        "lr": {"low": 1e-5, "high": 1e-2, "log": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "batch_size": {"low": 4, "high": 8},
        "pooling": ["mean", "class_token"],
    }
    few = plan(Sweep(random=random, draws=5), ClsRecipe)
    many = plan(Sweep(random=random, draws=200), ClsRecipe)
    assert many[:5] == few
    assert all(1e-5 <= run.recipe.lr <= 1e-2 and 0 <= run.recipe.dropout <= 0.5 for run in many)
    assert 0.3 < sum(run.recipe.lr < 10**-3.5 for run in many) / 200 < 0.7
    assert {run.recipe.batch_size for run in many} == {4, 5, 6, 7, 8}
    assert {run.recipe.pooling for run in many} == {"mean", "class_token"}
    assert plan(Sweep(random=random, draws=5, draws_seed=1), ClsRecipe) != few


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"grid": {"lr": [1e-3, -1.0]}, "base": {"learning_rate": 1}}, r"learning_rate: Extra.*lr: Input should be"),
        ({"grid": {"lr": 1e-3}}, "grid: lr is not a list"),
        ({"grid": {"lr": []}}, "grid: lr is not a list"),
        ({"variants": {"a": 3}}, "variants: a is not a set"),
        ({"random": {"lr": {"low": 1}}, "draws": 1}, "neither a list nor"),
        ({"random": {"lr": {"low": 2, "high": 1}}, "draws": 1}, "low < high"),
        ({"random": {"lr": {"low": 0, "high": 1, "log": True}}, "draws": 1}, "low > 0"),
        ({"random": {"lr": [1, 2]}}, "set both or neither"),
        ({"draws": 3}, "set both or neither"),
        ({"folds": 1}, "a single part"),
        ({"folds": 5, "hold_back": 0.2}, "folds and hold_back"),
    ],
)  # fmt: skip
def test_all_that_does_not_hold_is_said_before_anything_runs(sweep, message):
    with pytest.raises(MarsError, match=message):
        plan(Sweep(**sweep), ClsRecipe)


RECIPES = Path(__file__).parents[2] / "recipes"
SWEEPS = sorted((RECIPES / "sweeps").glob("*.yaml"))


def _sweep_of(path: Path) -> tuple[str, Sweep]:
    ((asset, step),) = yaml.safe_load(path.read_text())["ops"].items()
    return asset, Sweep(**step["config"])


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_file_holds(path: Path) -> None:
    asset, sweep = _sweep_of(path)
    recipe = {"cls_experiments": ClsRecipe, "seg_experiments": SegRecipe}[asset]
    runs = plan(sweep, recipe)
    assert [run.name for run in runs if run.fold == 0] == list(sweep.variants)  # no two variants are the same recipe
    assert f"--select {asset} -c recipes/sweeps/{path.name}" in path.read_text()


def test_the_papers_sweep_is_the_papers_six_recipes() -> None:
    runs = plan(_sweep_of(RECIPES / "sweeps" / "seg_paper.yaml")[1], SegRecipe)
    paper, *changes = (
        yaml.safe_load(file.read_text())["ops"]["seg_model"]["config"]
        for file in [RECIPES / "seg_paper.yaml", *RECIPES.glob("seg_paper/*.yaml")]
    )
    recipes = [SegRecipe(**paper), *(SegRecipe(**paper | change) for change in changes)]
    assert len(runs) == len(recipes) == 6
    assert all(run.recipe in recipes for run in runs)


def test_the_papers_small_sweep_differs_from_it_in_size_alone() -> None:
    runs, small = (
        plan(_sweep_of(RECIPES / "sweeps" / f"{name}.yaml")[1], SegRecipe) for name in ("seg_paper", "seg_paper_small")
    )
    size = {"neck_channels", "head_channels", "lr", "steps", "warmup_steps", "evaluate_every"}
    as_dumped = [[(run.name, run.recipe.model_dump(exclude=size)) for run in some] for some in (runs, small)]
    assert as_dumped[0] == as_dumped[1]


def test_whole_numbers_are_drawn_from_a_log_range_too() -> None:
    sweep = Sweep(random={"neck_channels": {"low": 16, "high": 256, "log": True}}, draws=20)
    drawn = [run.recipe.neck_channels for run in plan(sweep, SegRecipe)]
    assert len(set(drawn)) > 5
    assert 16 <= min(drawn) <= max(drawn) <= 256
