"""Running a sweep: what is run, what is kept, and what is not run twice."""

import dataclasses
import json
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.task import CLASSIFICATION
from mars_assets.datasets import Dataset
from mars_assets.errors import DivergedError, MarsError
from mars_assets.experiments import table as sweep_table
from mars_assets.experiments.figures import draw_curves, draw_effects, effects, readable, readable_together
from mars_assets.experiments.hold_back import HELD_BACK, hold_back, hold_back_part
from mars_assets.experiments.run import SweepJob, run_sweep
from mars_assets.experiments.sweep import Sweep, plan
from mars_assets.experiments.table import histories, pooled, ranked
from mars_assets.lake import Lake
from mars_assets.models.task import Task
from mars_assets.models.versions import ModelVersion, set_current_weights
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import open_weights, save_weights
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.storage.files import read_table, write_json, write_table
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

pytestmark = pytest.mark.slow

CONFIG = PrithviConfig(
    variant="test", img_size=32, embed_dim=48, depth=1, num_heads=3, decoder_embed_dim=16, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip
CPU = Compute("cpu", "fp32", 1, 9)
SWEEP = Sweep(base={"steps": 3, "warmup_steps": 1}, grid={"lr": [0.1, 0.2, 0.3]}, seeds=[1, 2], hold_back=0.3)


@pytest.fixture
def here(lake: Lake) -> Lake:
    torch.manual_seed(0)
    save_weights(lake.foundation("test"), PrithviMAE(CONFIG), {})
    set_current_weights(lake, lake.foundation("test"), open_weights(lake.foundation("test")).sha256)
    return lake


@pytest.fixture
def images() -> pd.DataFrame:
    rows = [(f"{i}", "train" if i < 40 else "valid", f"ESP_{i // 2}", "c", "l") for i in range(50)]
    return pd.DataFrame(rows, columns=["image_id", "split", "observation", "chip_sha", "labels_sha"])


class Scored(NamedTuple):
    row: dict
    evidence: pd.DataFrame


class Trainer:
    """A training that only notes that it ran: its score is its learning rate, and 0.3 diverges."""

    def __init__(self, images: pd.DataFrame) -> None:
        self.images = images
        self.label_version = "v"
        self.ran: list[tuple[float, int]] = []
        self.trained_on: set[str] = set()

    def train(self, job: TrainingJob) -> dict:
        recipe, images, folder, compute = job.recipe, job.images, job.folder, job.compute
        if (folder / "model.bin").exists():  # as a finished training
            return {"steps": 3}
        self.ran.append((recipe.lr, compute.seed))
        self.trained_on |= set(images.loc[images["split"] == "train", "observation"])
        if recipe.lr == 0.3:
            raise DivergedError("the training diverged")
        (folder / "model.bin").write_bytes(b"weights")
        (folder / "predictions").mkdir()
        (folder / "predictions" / "0.png").write_bytes(b"mask")
        write_table(folder / "history.parquet", pd.DataFrame({"step": [1, 2], "valid_loss": [1.0, recipe.lr]}))
        write_json(folder / "config.json", {"score": recipe.lr + compute.seed / 100})
        return {"steps": 3}

    def score(self, model: ModelVersion, images: pd.DataFrame, split: str) -> Scored:
        value = model.config["score"]
        row = {"split": split, "good": value, "good_low": value - 0.1, "good_high": value + 0.1, "other": None}
        return Scored(row, images[["image_id", "observation"]].assign(good=value))

    def pool(self, evidence: pd.DataFrame, split: str) -> dict:
        counts = {"n": len(evidence), "n_observations": evidence["observation"].nunique()}
        assert evidence["image_id"].is_unique
        return {"split": split, **counts, "good": evidence["good"].mean(), "other": None}

    def task(self) -> Task:
        def evaluate(model, predictions, images, splits, resamples):
            return {split: self.score(model, images[images["split"] == split], split) for split in splits}

        return dataclasses.replace(
            CLASSIFICATION,
            name="t",
            score="good",
            weights_file="model.bin",
            training_versions=("",),
            evaluation_versions=("",),
            dataset=lambda *_: Dataset(self.images, {"label_version": self.label_version}),
            train=lambda job: self.train(job),
            predict=lambda *_: None,
            evaluate=evaluate,
            pool=self.pool,
        )


def test_every_run_is_a_row_and_none_runs_twice(here: Lake, images: pd.DataFrame):
    trainer, runs = Trainer(images), plan(SWEEP, ClsRecipe)
    table, ran = run_sweep(SweepJob(here, trainer.task(), runs[:4], held_back=0.3, compute=CPU))
    assert ran == 4
    assert trainer.ran == [(0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)]
    table, ran = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0.3, compute=CPU))
    assert ran == 2
    assert trainer.ran[4:] == [(0.3, 1), (0.3, 2)]
    assert [json.loads(recipe)["lr"] for recipe in table["recipe"]] == [run.recipe.lr for run in runs]
    assert table["seed"].tolist() == [1, 2] * 3
    np.testing.assert_allclose(table["valid_good"][:4], [0.11, 0.12, 0.21, 0.22])
    assert table["held_back_good"].notna().sum() == 4
    assert table["failed"].tolist() == [""] * 4 + ["the training diverged"] * 2
    _, ran = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0.3, compute=CPU))
    assert ran == 0
    assert len(trainer.ran) == 6


@pytest.mark.parametrize("write_every", [0.0, 1000.0], ids=["written after each run", "written at the end"])
def test_only_the_best_keeps_its_weights_and_all_their_history(
    here: Lake, images: pd.DataFrame, write_every, monkeypatch
):
    monkeypatch.setattr(sweep_table, "_WRITE_EVERY", write_every)
    table, _ = run_sweep(SweepJob(here, Trainer(images).task(), plan(SWEEP, ClsRecipe), held_back=0, compute=CPU))
    kept = [path.parent.name for path in here.model("t_experiments").glob("*/model.bin")]
    best = ranked(table, "good").iloc[0]
    assert kept == [best["version"]]
    assert [path.parent.name for path in here.model("t_experiments").glob("*/predictions")] == kept
    assert (json.loads(best["recipe"])["lr"], best["seed"]) == (0.2, 2)
    assert len(histories(here, Trainer(images).task(), table)) == 4


def test_held_back_observations_are_whole_the_same_and_never_trained_on(here: Lake, images: pd.DataFrame):
    held = hold_back(images, 0.3)
    of_split = held.groupby("observation")["split"].nunique()
    assert (of_split == 1).all()
    observations = set(held.loc[held["split"] == HELD_BACK, "observation"])
    assert 2 <= len(observations) <= 11
    assert (held.loc[images["split"] == "valid", "split"] == "valid").all()
    assert observations <= set(hold_back(images, 0.5).query("split == @HELD_BACK")["observation"])
    more = pd.concat([images, images.assign(observation="new", image_id=images["image_id"] + "n")])
    again = hold_back(more, 0.3)
    assert set(again.loc[again["split"] == HELD_BACK, "observation"]) - {"new"} == observations
    trainer = Trainer(images)
    run_sweep(SweepJob(here, trainer.task(), plan(SWEEP, ClsRecipe), held_back=0.3, compute=CPU))
    assert trainer.trained_on.isdisjoint(observations)
    nearly_all = hold_back(images[images["observation"].isin(["ESP_1", "ESP_2"])], 0.99)
    assert set(nearly_all["split"]) == {"train", HELD_BACK}


def test_each_training_observation_is_held_back_in_one_part(images: pd.DataFrame):
    parts = [hold_back_part(images, 5, fold) for fold in range(5)]
    held = [set(part.loc[part["split"] == HELD_BACK, "observation"]) for part in parts]
    trained = images.loc[images["split"] == "train", "observation"].unique()
    assert sorted(name for names in held for name in names) == sorted(trained)
    assert held[0] == set(hold_back(images, 0.2).query("split == @HELD_BACK")["observation"])
    assert all((part.loc[images["split"] == "valid", "split"] == "valid").all() for part in parts)
    one = images[images["observation"].isin([min(held[1]), "ESP_24"])]
    with pytest.raises(MarsError, match="all 1 training observations are in the same of 5 parts"):
        hold_back_part(one, 5, 1)


@pytest.mark.slow
def test_parts_together_are_judged_on_every_training_image_once(here: Lake, images: pd.DataFrame):
    sweep = Sweep(base={"steps": 3, "warmup_steps": 1}, grid={"lr": [0.1, 0.2, 0.3]}, folds=4)
    trainer, runs = Trainer(images), plan(sweep, ClsRecipe)
    arguments = {"folds": 4, "compute": CPU}
    # The first part was a fourth that a sweep without parts held back, by code that kept no evidence.
    before = plan(sweep.model_copy(update={"folds": 0}), ClsRecipe)
    run_sweep(SweepJob(here, trainer.task(), before, held_back=0.25, compute=CPU))
    assert len(trainer.ran) == 3
    for kept in here.model("t_experiments").glob("*/held_back.parquet"):
        kept.unlink()
    trainer.ran.clear()
    rows, ran = run_sweep(SweepJob(here, trainer.task(), runs, **arguments))
    # The best of them had its weights, the other is trained again, the failed one is not tried again.
    assert ran == 11
    assert trainer.ran == [(0.1, 1)] * 4 + [(0.2, 1)] * 3 + [(0.3, 1)] * 3
    assert rows["fold"].tolist() == [0, 1, 2, 3] * 3
    assert run_sweep(SweepJob(here, trainer.task(), runs, **arguments))[1] == 0
    together = pooled(here, trainer.task(), rows)
    assert [json.loads(recipe)["lr"] for recipe in together["recipe"]] == [0.2, 0.1, 0.3]
    assert together["n"].tolist()[:2] == [40, 40]
    assert together["n_observations"].tolist()[:2] == [20, 20]
    np.testing.assert_allclose(together["good"][:2], [0.21, 0.11])
    assert together["missing"][2] == "; ".join(f"part {part}: the training diverged" for part in range(1, 5))
    shown = readable_together(together, ["lr"], ["good", "other"])
    assert shown["good"].tolist() == ["0.210", "0.110", "–"]
    assert shown["images"].tolist() == ["40", "40", "–"]
    assert readable(rows, ["lr"], ["good"])["part held back"].tolist() == [1, 2, 3, 4] * 3
    # A test image more trains nothing again, although most weights are gone; another label of an image held back does.
    test = images.tail(1).assign(image_id="new", split="test", observation="ESP_99")
    trainer.ran.clear()
    trainer.images, trainer.label_version = pd.concat([images, test]), "w"
    again, _ = run_sweep(SweepJob(here, trainer.task(), runs, **arguments))
    assert trainer.ran == []
    pd.testing.assert_frame_equal(pooled(here, trainer.task(), again), together)
    other = trainer.images["image_id"] == "0"
    trainer.images = trainer.images.assign(labels_sha=trainer.images["labels_sha"].mask(other, "m"))
    run_sweep(SweepJob(here, trainer.task(), runs, **arguments))
    assert trainer.ran.count((0.1, 1)) == 4
    failed = pooled(here, trainer.task(), rows[rows["failed"] != ""].drop(columns="held_back_pretrained_on"))
    assert readable_together(failed, ["lr"], ["good"]).columns.tolist() == ["run", "lr", "seed", "parts", "missing"]


def test_parts_that_no_observation_fell_into_are_left_out(here: Lake, images: pd.DataFrame):
    few = images[images["observation"].isin(["ESP_1", "ESP_2", "ESP_24"])]
    trainer, runs = Trainer(few), plan(Sweep(base={"lr": 0.1}, folds=50), ClsRecipe)
    rows, ran = run_sweep(SweepJob(here, trainer.task(), runs, folds=50, compute=CPU))
    assert ran == len(rows) == 2
    assert pooled(here, trainer.task(), rows)["parts"].tolist() == [2]


def test_a_diverging_first_run_is_a_row_and_another_error_stops_the_sweep(here: Lake, images: pd.DataFrame):
    runs = plan(Sweep(grid={"lr": [0.3, 0.2]}), ClsRecipe)
    table, _ = run_sweep(SweepJob(here, Trainer(images).task(), runs, held_back=0, compute=CPU))
    assert table["failed"].tolist() == ["the training diverged", ""]

    class Full(Trainer):
        def train(self, job: TrainingJob) -> dict:
            raise MarsError("the disk is full")

    other = plan(Sweep(base={"lr": 0.15}), ClsRecipe)
    with pytest.raises(MarsError, match="disk is full"):
        run_sweep(SweepJob(here, Full(images).task(), other, held_back=0, compute=CPU))
    table, ran = run_sweep(SweepJob(here, Trainer(images).task(), other, held_back=0, compute=CPU))
    assert (ran, table["failed"].tolist()) == (1, [""])


def test_what_ran_before_an_error_is_in_the_table(here: Lake, images: pd.DataFrame):
    class Full(Trainer):
        def train(self, job: TrainingJob) -> dict:
            if job.recipe.lr == 0.2:
                raise MarsError("the disk is full")
            return super().train(job)

    with pytest.raises(MarsError, match="disk is full"):
        run_sweep(SweepJob(here, Full(images).task(), plan(SWEEP, ClsRecipe), held_back=0, compute=CPU))
    table = read_table(here.metrics("t_experiments"), "t_experiments")
    assert table["seed"].tolist() == [1, 2]
    assert [path.parent.name for path in here.model("t_experiments").glob("*/model.bin")] == [table["version"].iloc[1]]


def test_scores_outlive_their_weights_the_table_and_labels_that_are_not_theirs(here: Lake, images: pd.DataFrame):
    trainer, runs = Trainer(images), plan(SWEEP, ClsRecipe)
    first, _ = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))
    trainer.label_version = "w"
    other, ran = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))
    assert ran == 6
    here.metrics("t_experiments").unlink()
    again, _ = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))
    assert len(trainer.ran) == 6
    for table in (other, again):
        pd.testing.assert_series_equal(table["valid_good"], first["valid_good"])


def test_new_images_that_only_judge_train_nothing_again(here: Lake, images: pd.DataFrame, monkeypatch):
    trainer, runs = Trainer(images), plan(SWEEP, ClsRecipe)
    first, _ = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))
    best = ranked(first, "good").iloc[0]["version"]
    judged: list[str] = []

    def score(model: ModelVersion, images: pd.DataFrame, split: str) -> Scored:
        judged.append(model.version)
        return Scored({"good": 0.5}, images)

    monkeypatch.setattr(trainer, "score", score)
    # A finished training is found by the trainers themselves.
    monkeypatch.setattr(trainer, "train", lambda job: {"steps": 3} if (job.folder / "model.bin").exists() else 1 / 0)

    test = images.tail(1).assign(image_id="new", split="test", observation="ESP_99")
    trainer.images, trainer.label_version = pd.concat([images, test]), "w"
    table, ran = run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))
    assert (ran, table["version"].tolist()) == (6, first["version"].tolist())
    assert set(judged) == {best}  # the one whose weights were kept
    by_version = table.set_index("version")
    assert by_version.loc[best, "test_good"] == 0.5
    others = by_version[(by_version["failed"] == "") & (by_version.index != best)]
    assert others["test_good"].isna().all()
    assert others["not_judged"].str.contains("weights were deleted").all()
    np.testing.assert_allclose(others["valid_good"], first.set_index("version").loc[others.index, "valid_good"])
    assert run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))[1] == 0
    monkeypatch.setattr("mars_assets.experiments.planned_run.EVALUATION", "another way of judging")
    assert run_sweep(SweepJob(here, trainer.task(), runs, held_back=0, compute=CPU))[1] == 6
    assert len(judged) == 4


def test_an_undefined_score_ranks_nowhere(here: Lake, images: pd.DataFrame):
    class Undefined(Trainer):
        def score(self, model: ModelVersion, images: pd.DataFrame, split: str) -> Scored:
            return Scored({"good": None, "good_low": None, "good_high": None, "other": 1.0}, images)

    table, _ = run_sweep(SweepJob(here, Undefined(images).task(), plan(SWEEP, ClsRecipe)[:4], held_back=0, compute=CPU))
    assert ranked(table, "good").empty
    assert len(readable(table, ["lr"], ["good", "other"])) == 4


def test_settings_that_are_lists_are_compared_too(here: Lake, images: pd.DataFrame):
    runs = plan(
        Sweep(grid={"class_weights": [[0.2, 0.8], [0.05, 0.95]], "loss": ["weighted_cross_entropy"]}), SegRecipe
    )
    table, _ = run_sweep(SweepJob(here, Trainer(images).task(), runs, held_back=0, compute=CPU))
    assert effects(table, ["class_weights"], "good")["runs"].tolist() == [2]


def test_other_labels_are_another_row(here: Lake, images: pd.DataFrame):
    runs = plan(Sweep(), ClsRecipe)
    run_sweep(SweepJob(here, Trainer(images).task(), runs, held_back=0, compute=CPU))
    _, ran = run_sweep(SweepJob(here, Trainer(images.assign(labels_sha="m")).task(), runs, held_back=0, compute=CPU))
    assert ran == 1


def test_effects_are_shares_of_variance(here: Lake, images: pd.DataFrame):
    table, _ = run_sweep(SweepJob(here, Trainer(images).task(), plan(SWEEP, ClsRecipe)[:4], held_back=0, compute=CPU))
    found = effects(table, ["lr", "steps"], "good").set_index("setting")
    values = table["valid_good"].to_numpy()
    between = 2 * ((values[:2].mean() - values.mean()) ** 2 + (values[2:].mean() - values.mean()) ** 2)
    total = ((values - values.mean()) ** 2).sum()
    within = (total - between) / 2  # four runs of two values
    assert found.loc["lr", "share"] == pytest.approx((between - within) / (total + within))
    assert found.loc["lr", "best"] == "0.2"
    assert found.loc["steps", "share"] == 0


@pytest.mark.slow
def test_noise_has_no_effect(here: Lake, images: pd.DataFrame):
    rng, shares = np.random.default_rng(0), []
    runs = plan(Sweep(random={"lr": {"low": 0.1, "high": 0.9}}, draws=12), ClsRecipe)
    recipes = [run.recipe.model_dump_json() for run in runs]
    for _ in range(200):
        table = pd.DataFrame({"recipe": recipes, "failed": "", "valid_good": rng.random(12), "version": "v"})
        shares.append(effects(table, ["lr"], "good").at[0, "share"])
    assert np.mean(shares) < 0.15
    alone = effects(table.head(2), ["lr"], "good")
    assert np.isnan(alone.at[0, "share"]), "each value has one run"
    title = draw_effects(table.head(2), ["lr"], "good").axes[0].get_title()
    assert title == "lr: too few runs"


def test_what_is_shown_has_every_run_the_best_first(here: Lake, images: pd.DataFrame):
    table, _ = run_sweep(SweepJob(here, Trainer(images).task(), plan(SWEEP, ClsRecipe), held_back=0.3, compute=CPU))
    shown = readable(table, ["lr"], ["good", "other"])
    assert shown["lr"].tolist() == [0.2, 0.2, 0.1, 0.1, 0.3, 0.3]
    assert shown["valid good"].iloc[0] == "0.220 [0.120, 0.320]"
    assert shown["failed"].iloc[-1] == "the training diverged"
    curves = draw_curves(table, histories(here, Trainer(images).task(), table), "good", ("step", "valid_loss"))
    assert len(curves.axes[0].lines) == 4
    assert "variance" in draw_effects(table, ["lr"], "good").axes[0].get_title()
