"""Running a transfer study: what is computed, and what is not computed twice."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import torch

from mars_assets.bands import HLS_BANDS, PRITHVI_V1, impute, scale_to_reflectance
from mars_assets.classification.features import FeatureCache
from mars_assets.datasets import Dataset
from mars_assets.errors import MarsError, MissingInputError
from mars_assets.lake import Lake
from mars_assets.models.versions import set_current_weights
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.prithvi.model import PrithviMAE
from mars_assets.prithvi.weights import open_weights, save_weights
from mars_assets.storage.files import read_table
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training.compute import Compute
from mars_assets.transfer import run as module
from mars_assets.transfer.plan import in_words, plan_of
from mars_assets.transfer.protocol import TransferStudy, studied
from mars_assets.transfer.report import sections_of, write_report
from mars_assets.transfer.results import results_of
from mars_assets.transfer.run import Repetition, StudyJob, run_study
from mars_assets_tests.assets.runs import Runs, metadata

pytestmark = pytest.mark.slow

CONFIG = PrithviConfig(
    variant="sample", img_size=32, embed_dim=48, depth=1, num_heads=3, decoder_embed_dim=16, decoder_depth=1,
    decoder_num_heads=2,
)  # fmt: skip
STUDY = TransferStudy(fractions=[0.1, 1.0], seeds=2, folds=3)
CPU = Compute("cpu", "fp32", 1, 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Chips with a bright square where the label is 1, of 15 observations to train on and 3 to validate on."""
    rng, folder, rows = np.random.default_rng(0), tmp_path_factory.mktemp("chips"), []
    for number in range(72):
        label = number % 2
        rgb = rng.integers(60, 160, (48, 48, 3)).astype(np.uint8)
        rgb[12:36, 12:36] += np.uint8(70 * label)
        path = folder / f"tile-{number:02d}.tif"
        write_chip(path, impute(scale_to_reflectance(rgb), "post_norm"), HLS_BANDS)
        split = "train" if number < 60 else "valid"
        rows.append((path.stem, split, f"ESP_{number // 4}", str(path), f"chip-{number}", f"label-{number}", label))
    names = ["image_id", "split", "observation", "chip", "chip_sha", "labels_sha", "label"]
    return pd.DataFrame(rows, columns=names)


class Finished(NamedTuple):
    """A lake with a finished study.

    Args:
        lake: the lake.
        repetitions: the study's parts.
        passes: how many images each pass of an encoder had.
    """

    lake: Lake
    repetitions: list[Repetition]
    passes: list[int]


def labelled(images: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset(images, {"label_version": "1234", "statistics": PRITHVI_V1.name})
    monkeypatch.setattr(module, "classification_dataset", lambda lake, statistics: dataset)


@pytest.fixture(scope="module")
def finished(images: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    lake, passes, computed = Lake(tmp_path_factory.mktemp("lake")), [], FeatureCache._computed
    torch.manual_seed(0)
    save_weights(lake.foundation("sample"), PrithviMAE(CONFIG), {})
    set_current_weights(lake, lake.foundation("sample"), open_weights(lake.foundation("sample")).sha256)

    def counted(self: FeatureCache, encoder: object, chips: torch.Tensor) -> torch.Tensor:
        passes.append(len(chips))
        return computed(self, encoder, chips)

    with pytest.MonkeyPatch.context() as monkeypatch:
        labelled(images, monkeypatch)
        monkeypatch.setattr(FeatureCache, "_computed", counted)
        repetitions, ran = run_study(job(lake))
    assert ran == len(repetitions) == 6 * 2
    return Finished(lake, repetitions, passes)


@pytest.fixture
def here(lake: Lake, finished: Finished, images: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Make a lake with the encoders, and the features of the images."""
    shutil.copytree(finished.lake.root, lake.root, dirs_exist_ok=True)
    shutil.rmtree(lake.transfer_runs)
    labelled(images, monkeypatch)
    return lake


def job(lake: Lake, study: TransferStudy = STUDY) -> StudyJob:
    return StudyJob(lake, study, compute=CPU)


def test_a_study_has_the_encoders_of_the_lake_with_their_controls(here: Lake):
    assert studied(here, STUDY) == [
        *("prithvi_weights", "shuffled:prithvi_weights", "random", "random:resnet18.a1_in1k", "pixels", "hog"),
    ]
    chosen = TransferStudy(encoders=["random:galileo_nano", "prithvi_weights", "hog"])
    assert studied(here, chosen)[:4] == [
        *("random:galileo_nano", "prithvi_weights", "shuffled:prithvi_weights", "random"),
    ]


def test_without_encoders_it_says_how_to_get_one(lake: Lake):
    with pytest.raises(MissingInputError, match="prithvi_weights"):
        studied(lake, STUDY)


def test_every_training_image_is_predicted_once_by_each_run(finished: Finished, images: pd.DataFrame):
    trained = sorted(images.loc[images["split"] == "train", "image_id"])
    for one in finished.repetitions:
        runs = read_table(one.path, "transfer_study")
        for (_, fraction), run in runs.groupby(["way", "fraction"]):
            assert sorted(run["image_id"]) == trained
            assert run["probability"].between(0, 1).all()
            held_out = run.groupby("part").size()
            assert run.groupby("part")["n_train"].first().tolist() == [
                max(2, int(np.ceil(round(fraction * (60 - held), 9)))) for held in held_out
            ]


def test_an_encoder_passes_over_an_image_once_and_random_ones_once_a_seed(
    here: Lake, finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    assert sum(finished.passes) == 72 * (1 + 3 * 2)  # shuffled and random weights, and the network, of two seeds
    monkeypatch.setattr(FeatureCache, "_computed", None)
    other = STUDY.model_copy(update={"fractions": [0.5], "folds": 2})
    assert run_study(job(here, other))[1] == 12
    assert run_study(job(here, other))[1] == 0


def test_controls_differ_from_each_other(finished: Finished):
    found = {}
    for one in finished.repetitions:
        found[one.contender.name, one.seed] = read_table(one.path, "transfer_study")["probability"].tolist()
    assert len({tuple(values) for values in found.values()}) == len(found)


def test_a_plan_counts_what_is_missing(here: Lake, finished: Finished):
    plan = plan_of(job(here)).set_index("encoder")
    assert plan.loc["prithvi_weights", ["runs", "done", "passes"]].tolist() == [24, 0, 1]
    assert plan.loc["random", ["runs", "done", "passes"]].tolist() == [24, 0, 2]
    assert (plan["minutes"] > 0).all()
    before = sorted(finished.lake.root.rglob("*"))
    done = plan_of(job(finished.lake))
    assert sorted(finished.lake.root.rglob("*")) == before
    assert done.set_index("encoder").loc["random", ["runs", "done", "passes", "minutes"]].tolist() == [24, 24, 0, 0]
    assert "144 runs, of which 144 are done; about 1 min on this machine" in in_words(done)


def test_a_killed_study_goes_on_and_gives_the_same_table(here: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def table(lake: Lake) -> pd.DataFrame:
        return results_of(run_study(job(lake))[0]).runs.drop(columns="seconds")

    write, written = module.write_table, []

    def dies(path: Path, rows: pd.DataFrame) -> None:
        written.append(path)
        if len(written) == 4:
            raise KeyboardInterrupt
        write(path, rows)

    monkeypatch.setattr(module, "write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        run_study(job(here))
    expected = table(here)
    assert len(written) == 4 + 9
    for one in run_study(job(here))[0]:
        one.path.unlink()
    pd.testing.assert_frame_equal(table(here), expected)


def test_other_labels_are_computed_anew(here: Lake, images: pd.DataFrame, monkeypatch: pytest.MonkeyPatch):
    assert run_study(job(here))[1] == 12
    changed = images.assign(label=images["label"].where(images["image_id"] != "tile-03", 0))
    labelled(changed, monkeypatch)
    assert run_study(job(here))[1] == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda images: images.assign(label=images["label"].where(images["split"] != "valid", 1)), "validation images"),
        (lambda images: images.assign(label=images["label"].where(images["split"] != "train", 1)), "one class only"),
    ],
)
def test_labels_that_do_not_suffice_are_refused(
    here: Lake,
    images: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
):
    labelled(change(images), monkeypatch)
    with pytest.raises(MarsError, match=message):
        run_study(job(here))


def test_the_report_says_what_the_study_found(here: Lake, finished: Finished):
    results = results_of(finished.repetitions)
    write_report(here, sections_of(here, STUDY, results))
    said, page = (here.metrics("transfer_study", suffix).read_text() for suffix in (".md", ".html"))
    for text in (said, page):
        assert "prithvi_weights" in text
        assert "60 training images of 15 observations" in text
        assert "hog" in text
    assert (here.all_metrics / "transfer_study_label efficiency.png").exists()
    assert "](transfer_study_label%20efficiency.png)" in said
    assert "<script" not in page
    assert "http" not in page
    # A bright square is no riddle for pixels.
    best = results.estimates.set_index(["encoder", "way", "fraction"]).loc[("pixels", "linear", 1.0)]
    assert best["balanced_accuracy"] > 0.9
    assert set(results.comparisons["to"]) >= {"random", "shuffled:prithvi_weights", "random:resnet18.a1_in1k"}


def test_the_asset_shows_the_report(here: Lake, tmp_path: Path):
    config = {"ops": {"transfer_study": {"config": STUDY.model_dump()}}}
    with dg.DagsterInstance.ephemeral() as instance:
        runs = Runs(here, instance, tmp_path, "http://127.0.0.1:9")
        found = metadata(runs.run("transfer_study", config=config))
        rows = read_table(here.metrics("transfer_study"), "transfer_study")
        assert found["dagster/row_count"] == len(rows) == 6 * 2 * 2 * 2
        assert found["computed in this run"] == 12
        assert "**prithvi_weights** (synthetic terrain), nearest neighbours" in found["Verdict"]
        assert "| pixels | linear |" in found["Scores with the most labels: table"]
        assert "data:image/png" in found["label efficiency"]
        again = metadata(runs.run("transfer_study", config=config))
        assert again["computed in this run"] == 0
        pd.testing.assert_frame_equal(read_table(here.metrics("transfer_study"), "transfer_study"), rows)
        config["ops"]["transfer_study"]["config"]["ways"] = ["magic"]
        failure = runs.run("transfer_study", config=config).failure_data_for_node("transfer_study")
        assert "['magic'] are not ways" in str(failure.error)
