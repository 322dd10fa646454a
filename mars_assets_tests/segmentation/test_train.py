import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError, ProvenanceError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.progress import Progress
from mars_assets.segmentation import evaluate as evaluate_module
from mars_assets.segmentation import train as module
from mars_assets.segmentation.catalogue import crater_catalogue
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.evaluate import Evaluation, evaluate
from mars_assets.segmentation.predict import predict_masks
from mars_assets.segmentation.prediction_file import read_mask, read_probability
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.segmentation.train import _chosen, _loader, train_segmentation
from mars_assets.storage.cache import Cache
from mars_assets.storage.claims import has_work
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

pytestmark = pytest.mark.slow

Trained = tuple[Path, dict]


@pytest.fixture(scope="module")
def recipe() -> SegRecipe:
    return SegRecipe(
        neck_channels=8,
        detail_channels=4,
        head_channels=8,
        layers=2,
        crop_size=32,
        window=32,
        stride=16,
        batch_size=2,
        steps=6,
        evaluate_every=2,
        warmup_steps=2,
        lr=1e-2,
    )


@pytest.fixture(scope="module")
def compute() -> Compute:
    return Compute("cpu", "fp32", 1, seed=5)


@pytest.fixture(scope="module")
def trained(
    recipe: SegRecipe,
    compute: Compute,
    squares: pd.DataFrame,
    micro_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    folder = tmp_path_factory.mktemp("models") / "whole"
    return folder, train_segmentation(
        TrainingJob(recipe, squares, micro_weights, folder, compute, {"label_version": "v7"})
    )


def predicted(images: pd.DataFrame, masks: dict[str, Path]) -> pd.DataFrame:
    return images.assign(prediction=images["image_id"].map(masks))


def _stop(at: str, line: str) -> None:
    if line.startswith(at):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_the_folder_holds_the_result_and_no_scratch(trained: Trained, recipe: SegRecipe):
    folder, report = trained
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {"model.pth", "config.py", "config.json", "history.parquet"}
    assert not has_work(folder / "training")
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"] == recipe.model_dump()
    assert config["provenance"] == {"label_version": "v7"}
    assert config["bands"][0] == "BLUE"
    assert len(config["statistics"]["means"]) == 6
    assert config["classes"] == ["background", "crater"]
    assert config["report"] == report
    assert (report["n_train"], report["n_valid"], report["iterations"]) == (6, 4, 6)


def test_the_history_holds_losses_rates_and_validations(trained: Trained):
    folder, report = trained
    history = pd.read_parquet(folder / "history.parquet")
    assert history["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
    assert history["loss"].notna().all()
    assert history["lr"].iloc[0] == pytest.approx(0, abs=1e-7)
    validated = history.dropna(subset="miou")
    assert validated["iteration"].tolist() == [2, 4, 6]
    best = validated.loc[validated["miou"].idxmax()]
    assert report["best_iteration"] == best["iteration"]
    assert report["miou"] == pytest.approx(best["miou"])


def test_a_finished_training_returns_its_report_at_once(
    trained: Trained, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path
):
    folder, report = trained
    before = (folder / "model.pth").stat().st_mtime_ns
    lines: list[str] = []
    shuffled = squares.sample(frac=1, random_state=1)
    again = train_segmentation(
        TrainingJob(recipe, shuffled, micro_weights, folder, compute, {}, Progress(lines.append))
    )
    assert again == report
    assert (folder / "model.pth").stat().st_mtime_ns == before
    assert not lines


@pytest.mark.parametrize(
    ("average", "between", "workers"), [(0, False, 0), (0, True, 2), (0.9, False, 2), (0.9, True, 0)]
)
@pytest.mark.slow
def test_an_interrupted_training_ends_as_one_that_was_not(
    average: float,
    between: bool,
    workers: int,
    trained: Trained,
    recipe: SegRecipe,
    compute: Compute,
    squares: pd.DataFrame,
    micro_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Bit for bit, and as one whose images were all loaded in the training's own process."""
    whole, report = trained
    if average:
        recipe = recipe.model_copy(update={"average_weights": average})
        whole = tmp_path / "whole"
        report = train_segmentation(TrainingJob(recipe, squares, micro_weights, whole, compute, {}))

    monkeypatch.setattr(module, "_workers", lambda device: workers)
    if between:
        monkeypatch.setattr(module, "SAVE_EVERY", 0.0)

    def train(progress: Progress) -> dict:
        return train_segmentation(
            TrainingJob(recipe, squares, micro_weights, tmp_path / "stopped", compute, {}, progress)
        )

    stop = "training segmentation: 6/" if between else "training segmentation: 5/"
    with pytest.raises(KeyboardInterrupt):
        train(Progress(partial(_stop, stop), every=0))
    assert not (tmp_path / "stopped" / "config.json").exists()
    torch.manual_seed(99)  # what another process has
    np.random.seed(99)
    lines: list[str] = []
    resumed = train(Progress(lines.append, every=0))
    start = 5 if between else 4
    assert lines[0] == f"resuming at iteration {start}"
    assert lines[1].startswith(f"training segmentation: 1/{6 - start} iterations")
    assert {**resumed, "seconds": 0} == {**report, "seconds": 0}
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "stopped" / "history.parquet"),
        pd.read_parquet(whole / "history.parquet"),
        check_exact=True,
    )
    unbroken, stopped = (
        torch.load(path / "model.pth", weights_only=True)["state_dict"] for path in (whole, tmp_path / "stopped")
    )
    assert [name for name, tensor in unbroken.items() if not torch.equal(stopped[name], tensor)] == []


@pytest.mark.parametrize("done", [0, 7])
def test_batches_do_not_depend_on_who_loads_them_nor_on_where_the_training_resumed(
    done: int, squares: pd.DataFrame, micro: PrithviConfig, recipe: SegRecipe, compute: Compute
):
    from mars_assets.segmentation.mmseg_setup import mmseg_ready

    with mmseg_ready():
        from mmengine.runner import Runner

        from mars_assets.segmentation.dataset import SeededBatches
        from mars_assets.segmentation.mmseg_config import mmseg_config

        every = recipe.model_copy(update={"light": True, "crater_crops": 0.5, "scale_jitter": 1.4})
        pipeline = mmseg_config(every, micro, compute).train_pipeline

        def loaded(workers: int, start: int, seed: int = 5) -> list[dict]:
            np.random.seed(workers)
            batches = SeededBatches(len(squares), 4, range(start, 10), seed)
            loader = _loader(squares, pipeline, compute, workers, batches)
            return list(Runner.build_dataloader(loader, seed=seed))

        expected = loaded(0, 0)[done:]
        assert len(expected) == 10 - done
        for batch, other in zip(expected, loaded(2, done), strict=True):
            for name in ("inputs", "data_samples"):
                for one, another in zip(batch[name], other[name], strict=True):
                    if name == "data_samples":
                        one, another = one.gt_sem_seg.data, another.gt_sem_seg.data
                    assert torch.equal(one, another)
        first = expected[0]["inputs"]
        assert not any(torch.equal(first[0], other) for other in first[1:])
        assert not all(map(torch.equal, first, loaded(0, done, seed=6)[0]["inputs"]))


@pytest.mark.slow
def test_averaged_weights_are_what_is_validated_and_kept(
    recipe: SegRecipe,
    compute: Compute,
    squares: pd.DataFrame,
    micro_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    import mars_assets.segmentation.hooks as hooks

    weights: list[dict[str, torch.Tensor]] = []
    after = hooks.TrainingState.after_train_iter

    def watched(self, runner, *arguments, **named):  # type: ignore[no-untyped-def]
        weights.append({name: value.clone() for name, value in runner.model.state_dict().items()})
        after(self, runner, *arguments, **named)

    monkeypatch.setattr(hooks.TrainingState, "after_train_iter", watched)
    once = recipe.model_copy(update={"average_weights": 0.75, "steps": 4, "evaluate_every": 4})
    report = train_segmentation(TrainingJob(once, squares, micro_weights, tmp_path, compute, {}))
    kept = torch.load(tmp_path / "model.pth", weights_only=True)["state_dict"]
    for name, value in kept.items():
        if not value.is_floating_point():  # a batch norm's count of batches, which nothing reads
            continue
        average = weights[0][name]
        for later in weights[1:]:
            average = average.lerp(later[name], 0.25)
        torch.testing.assert_close(value, average, msg=name, rtol=1e-4, atol=1e-5)
    valid = squares[squares["split"] == "valid"]
    masks = predict_masks(tmp_path, valid, tmp_path / "predictions", compute)
    assert evaluate(predicted(valid, masks), "valid").row["miou"] == pytest.approx(report["miou"], abs=1e-6)


def test_a_training_of_other_settings_is_not_continued(
    trained: Trained, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path
):
    folder, _ = trained
    other = recipe.model_copy(update={"lr": 0.5, "batch_size": 3})
    with pytest.raises(ProvenanceError, match=r"batch_size 2 there, 3 now; lr 0\.01 there, 0\.5 now"):
        train_segmentation(TrainingJob(other, squares, micro_weights, folder, compute, {}))
    with pytest.raises(ProvenanceError, match="images"):
        train_segmentation(TrainingJob(recipe, squares.iloc[1:], micro_weights, folder, compute, {}))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_an_empty_split_is_named(
    split: str, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    with pytest.raises(MarsError, match=f"'{split}'"):
        train_segmentation(
            TrainingJob(recipe, squares[squares["split"] != split], micro_weights, tmp_path, compute, {})
        )


def test_a_diverging_training_says_so(
    recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    wild = recipe.model_copy(update={"lr": 1e30, "warmup_steps": 0, "clip_grad": 0.0})
    with pytest.raises(MarsError, match="lower the recipe's lr"):
        train_segmentation(TrainingJob(wild, squares, micro_weights, tmp_path / "wild", compute, {}))


def test_the_pretrained_encoder_is_what_training_starts_from(
    recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    from safetensors.torch import load_file

    published = load_file(micro_weights / "model.safetensors")
    still = recipe.model_copy(update={"frozen": True, "steps": 1})
    for encoder in ("prithvi_weights", "random"):
        folder = tmp_path / encoder
        train_segmentation(
            TrainingJob(still.model_copy(update={"encoder": encoder}), squares, micro_weights, folder, compute, {})
        )
        state = torch.load(folder / "model.pth", weights_only=True)["state_dict"]
        same = [
            torch.equal(published[f"encoder.{name}"], state[f"backbone.encoder.{name}"])
            for name in ("blocks.0.attn.qkv.weight", "patch_embed.proj.weight")
        ]
        assert same == [encoder == "prithvi_weights"] * 2


def test_the_papers_recipe_trains_on_the_same_images(
    compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    import yaml

    path = Path(__file__).parents[2] / "recipes" / "seg_paper.yaml"
    fields = yaml.safe_load(path.read_text())["ops"]["seg_model"]["config"]
    fields |= {"loss": "weighted_cross_entropy", "class_weights": [0.2, 0.8]}
    small = {"neck_channels": 8, "head_channels": 8, "crop_size": 32, "window": 32, "stride": 16, "steps": 2}
    report = train_segmentation(
        TrainingJob(SegRecipe(**{**fields, **small}), squares, micro_weights, tmp_path / "paper", compute, {})
    )
    assert report["iterations"] == 2


@pytest.mark.filterwarnings("ignore::UserWarning:mmseg")
def test_mmseg_opens_the_checkpoint_by_itself(trained: Trained, squares: pd.DataFrame):
    """With nothing of ours imported by hand, and the same labels as from our own prediction."""
    from mmseg.apis import inference_model, init_model

    folder, _ = trained
    model = init_model(str(folder / "config.py"), str(folder / "model.pth"), device="cpu")
    assert tuple(model.dataset_meta["classes"]) == ("background", "crater")
    chip = squares["chip"].iloc[0]
    theirs = inference_model(model, str(chip)).pred_sem_seg.data[0].numpy()
    assert theirs.shape == (64, 48)
    assert str(chip.parent) not in (folder / "config.py").read_text()


def test_the_checkpoint_holds_tensors_and_plain_values_only(trained: Trained):
    folder, report = trained
    checkpoint = torch.load(folder / "model.pth", weights_only=True)
    assert checkpoint["meta"]["iter"] == report["best_iteration"]
    assert set(checkpoint) == {"meta", "state_dict"}


@pytest.mark.filterwarnings("ignore::UserWarning:mmseg")
def test_predictions_agree_with_mmsegs(trained: Trained, compute: Compute, squares: pd.DataFrame, tmp_path: Path):
    from mmseg.apis import inference_model, init_model

    folder, _ = trained
    model = init_model(str(folder / "config.py"), str(folder / "model.pth"), device="cpu")
    paths = predict_masks(folder, squares, tmp_path, compute)
    for row in squares.head(3).to_dict("records"):
        theirs = inference_model(model, str(row["chip"])).pred_sem_seg.data[0].numpy()
        assert np.mean(read_mask(paths[row["image_id"]]) == theirs) > 0.999


def test_only_new_images_are_predicted(trained: Trained, compute: Compute, squares: pd.DataFrame, tmp_path: Path):
    folder, _ = trained

    def predicted(images: pd.DataFrame) -> list[str]:
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
        paths = predict_masks(folder, images, tmp_path, compute)
        assert list(paths) == images["image_id"].tolist()
        return sorted(p.stem for p in paths.values() if p.stat().st_mtime_ns != before.get(p.name))

    first = squares.head(3)
    assert predicted(first) == ["image_0", "image_1", "image_2"]
    assert predicted(first) == []
    assert predicted(squares.head(4)) == ["image_3"]
    changed = first.assign(chip_sha=["sha-0", "another", "sha-2"])
    assert predicted(changed) == ["image_1"]
    (tmp_path / "image_2.png").write_bytes(b"torn")
    assert predicted(changed) == ["image_2"]


def test_another_models_predictions_are_not_taken(
    trained: Trained, compute: Compute, squares: pd.DataFrame, tmp_path: Path
):
    folder, _ = trained
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    checkpoint = torch.load(other / "model.pth", weights_only=True)
    checkpoint["state_dict"]["decode_head.conv_seg.bias"] += torch.tensor([-50.0, 50.0])
    torch.save(checkpoint, other / "model.pth")
    cache = tmp_path / "cache"
    one = squares.head(1)
    before = read_mask(predict_masks(folder, one, cache, compute)["image_0"])
    after = read_mask(predict_masks(other, one, cache, compute)["image_0"])
    assert after.all()
    assert not before.all()


def test_a_model_trained_with_a_retired_loss_predicts_as_before(
    trained: Trained, compute: Compute, squares: pd.DataFrame, tmp_path: Path
):
    folder, _ = trained
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    config = (old / "config.py").read_text()
    assert config.count("type='MaskedDiceLoss'") == 1
    (old / "config.py").write_text(config.replace("type='MaskedDiceLoss'", "gamma=0.75, type='MaskedTverskyLoss'"))
    one = squares.head(1)
    before, after = (
        read_probability(predict_masks(model, one, tmp_path / f"{model.name} masks", compute)["image_0"])
        for model in (folder, old)
    )
    np.testing.assert_array_equal(before, after)


def test_an_unfinished_or_damaged_model_is_named(trained: Trained, tmp_path: Path):
    with pytest.raises(MissingInputError, match="seg_model"):
        open_segmenter(tmp_path)
    folder = tmp_path / "torn"
    shutil.copytree(trained[0], folder)
    content = (folder / "model.pth").read_bytes()
    (folder / "model.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedFileError, match=r"model\.pth"):
        open_segmenter(folder)


def _with_empty(squares: pd.DataFrame, folder: Path, empty: tuple[int, ...]) -> pd.DataFrame:
    """The images, of which some have a mask without craters."""
    images = squares.copy()
    for place in empty:
        path = folder / f"empty_{place}.png"
        Image.fromarray(np.zeros((64, 48), np.uint8)).save(path)
        images.loc[place, "mask"] = path
    return images


def test_empty_images_can_be_dropped_from_training_only(squares: pd.DataFrame, tmp_path: Path):
    images = _with_empty(squares, tmp_path, (1, 7))
    chosen = _chosen(images, SegRecipe(drop_empty=True))
    assert chosen["image_id"].tolist() == [f"image_{n}" for n in range(10) if n != 1]
    assert _chosen(images, SegRecipe()) is images


def test_nothing_is_trained_on_without_a_crater(squares: pd.DataFrame, tmp_path: Path):
    images = _with_empty(squares, tmp_path, tuple(range(6)))
    with pytest.raises(MarsError, match="no training image has a crater"):
        _chosen(images, SegRecipe(drop_empty=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"normalize": "image"}, {"scales": [0.5, 1.0]}, {"architecture": "unet"}],
    ids=str,
)
def test_predictions_are_what_the_validation_saw(
    changes: dict,
    recipe: SegRecipe,
    compute: Compute,
    squares: pd.DataFrame,
    micro_weights: Path,
    tmp_path: Path,
):
    recipe = recipe.model_copy(update={**changes, "unet_channels": 2, "unet_stages": 3, "light": True})
    report = train_segmentation(TrainingJob(recipe, squares, micro_weights, tmp_path / "model", compute, {}))
    masks = predict_masks(tmp_path / "model", squares, tmp_path / "cache", compute)
    row = evaluate(predicted(squares, masks), "valid", resamples=2).row
    # The prediction is kept in 8 bits: a pixel of probability 0.5 may fall to either side.
    assert row["iou_background"] == pytest.approx(report["iou_background"], abs=2e-3)
    assert row["miou"] == pytest.approx(report["miou"], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("normalize", ["statistics", "image"])
def test_a_picture_is_seen_as_the_chip_that_is_made_of_it(
    normalize: str, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    wanted = recipe.model_copy(update={"normalize": normalize})
    train_segmentation(TrainingJob(wanted, squares, micro_weights, tmp_path / "model", compute, {}))
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    bgr = scale_to_reflectance(np.repeat(grey[..., None], 3, axis=2))
    write_chip(tmp_path / "grey.tif", impute(bgr, "post_norm"), HLS_BANDS)
    images = pd.DataFrame({"image_id": ["png", "tif"], "chip": [tmp_path / "grey.png", tmp_path / "grey.tif"]})
    paths = predict_masks(tmp_path / "model", images, tmp_path / "cache", compute)
    np.testing.assert_array_equal(read_probability(paths["png"]), read_probability(paths["tif"]))


def test_images_that_were_counted_are_not_counted_again(
    trained: Trained, compute: Compute, squares: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images = squares.assign(labels_sha=[f"labels {number}" for number in range(len(squares))])
    images["chip_sha"] = images["image_id"]
    images = predicted(images, predict_masks(trained[0], images, tmp_path / "cache", compute))

    def judged() -> tuple[Evaluation, pd.DataFrame]:
        with Cache(tmp_path / "counts.json", "1") as cache:
            evaluation = evaluate_module.evaluate(images, "valid", resamples=5, cache=cache)
            return evaluation, crater_catalogue(images, cache=cache)

    counted: list[Path] = []
    monkeypatch.setattr(evaluate_module, "read_mask", lambda path: counted.append(path) or read_mask(path))
    n_valid = int((images["split"] == "valid").sum())
    first, again = judged(), judged()
    assert len(counted) == n_valid
    assert first[0].row == again[0].row
    pd.testing.assert_frame_equal(first[0].images, again[0].images)
    pd.testing.assert_frame_equal(first[1], again[1])
    plain = evaluate(images.drop(columns="labels_sha"), "valid", resamples=5)
    assert plain.row == first[0].row
    counted.clear()
    images.loc[images["split"] == "valid", "labels_sha"] += " corrected"
    judged()
    assert len(counted) == n_valid


@pytest.mark.slow
def test_validations_take_one_orientation(
    recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    reports, masks = {}, {}
    for name, orientations in {"one": False, "all": True}.items():
        wanted = recipe.model_copy(update={"all_orientations": orientations})
        reports[name] = train_segmentation(TrainingJob(wanted, squares, micro_weights, tmp_path / name, compute, {}))
        masks[name] = predict_masks(tmp_path / name, squares, tmp_path / f"{name} masks", compute)
    assert reports["one"] | {"seconds": 0} == reports["all"] | {"seconds": 0}
    one, many = ([read_probability(path) for path in some.values()] for some in masks.values())
    assert any(not np.array_equal(*pair) for pair in zip(one, many, strict=True)), "predictions take all of them"


def test_small_craters_need_their_numbers(recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, tmp_path: Path):
    numbers = tmp_path / "numbers.png"
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(numbers)
    images = squares.assign(instances=numbers)
    items = _loader(images, [], compute, 0)["dataset"]["items"]
    assert {item["instances_path"] for item in items} == {str(numbers)}
    assert "instances_path" not in _loader(squares, [], compute, 0)["dataset"]["items"][0]
