import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mars_assets.bands import HLS_BANDS, impute, scale_to_reflectance
from mars_assets.errors import DamagedFileError, MarsError, MissingInputError, ProvenanceError
from mars_assets.progress import Progress
from mars_assets.segmentation import evaluate as evaluate_module
from mars_assets.segmentation.catalogue import crater_catalogue
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.evaluate import Evaluation, evaluate
from mars_assets.segmentation.predict import predict_masks
from mars_assets.segmentation.prediction_file import read_mask, read_probability
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.segmentation.train import _chosen, _loader, train_segmentation
from mars_assets.storage.cache import Remembered
from mars_assets.tensors.geotiff import write_chip
from mars_assets.training.compute import Compute

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
        iterations=6,
        evaluate_every=2,
        warmup_iterations=2,
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
    return folder, train_segmentation(recipe, squares, micro_weights, folder, compute, {"label_version": "v7"})


def _stop(at: str, line: str) -> None:
    if line.startswith(at):
        raise KeyboardInterrupt


def test_the_folder_holds_the_result_and_no_scratch(trained: Trained, recipe: SegRecipe):
    folder, report = trained
    assert {path.name for path in folder.iterdir()} == {"model.pth", "config.py", "config.json", "history.parquet"}
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
    again = train_segmentation(recipe, shuffled, micro_weights, folder, compute, {}, Progress(lines.append))
    assert again == report
    assert (folder / "model.pth").stat().st_mtime_ns == before
    assert not lines


@pytest.mark.parametrize("between", [False, True], ids=["from a validation", "from between validations"])
@pytest.mark.parametrize("average", [0.0, 0.9], ids=["weights", "averaged weights"])
def test_an_interrupted_training_ends_as_one_that_was_not(
    average: float,
    between: bool,
    trained: Trained,
    recipe: SegRecipe,
    compute: Compute,
    squares: pd.DataFrame,
    micro_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Same iterations, same history and same weights: sampler, augmentation, dropout and averages go on where they stopped."""
    whole, report = trained
    if average:
        recipe = recipe.model_copy(update={"average_weights": average})
        whole = tmp_path / "whole"
        report = train_segmentation(recipe, squares, micro_weights, whole, compute, {})
    if between:
        import mars_assets.segmentation.hooks as loop

        monkeypatch.setattr(loop.TrainingState.__init__, "__defaults__", (0.0,))  # save_every
    folder = tmp_path / "stopped"
    stop = "training segmentation: 6/" if between else "training segmentation: 5/"
    with pytest.raises(KeyboardInterrupt):
        train_segmentation(recipe, squares, micro_weights, folder, compute, {}, Progress(partial(_stop, stop), every=0))
    assert not (folder / "config.json").exists()
    lines: list[str] = []
    resumed = train_segmentation(recipe, squares, micro_weights, folder, compute, {}, Progress(lines.append, every=0))
    start = 5 if between else 4
    assert lines[0] == f"going on from iteration {start}"
    assert lines[1].startswith(f"training segmentation: 1/{6 - start} iterations")
    assert {**resumed, "seconds": 0} == {**report, "seconds": 0}
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "history.parquet"), pd.read_parquet(whole / "history.parquet")
    )
    states = [torch.load(path / "model.pth", weights_only=True)["state_dict"] for path in (whole, folder)]
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, msg=name)


def test_averaged_weights_are_what_is_validated_and_kept(
    recipe: SegRecipe,
    compute: Compute,
    squares: pd.DataFrame,
    micro_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    import mars_assets.segmentation.hooks as loop

    weights: list[dict[str, torch.Tensor]] = []
    after = loop.TrainingState.after_train_iter

    def watched(self, runner, *arguments, **named):  # type: ignore[no-untyped-def]
        weights.append({name: value.clone() for name, value in runner.model.state_dict().items()})
        after(self, runner, *arguments, **named)

    monkeypatch.setattr(loop.TrainingState, "after_train_iter", watched)
    once = recipe.model_copy(update={"average_weights": 0.75, "iterations": 4, "evaluate_every": 4})
    report = train_segmentation(once, squares, micro_weights, tmp_path, compute, {})
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
    assert evaluate(masks, valid, "valid").row["miou"] == pytest.approx(report["miou"], abs=1e-6)


def test_a_training_of_other_settings_is_not_continued(
    trained: Trained, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path
):
    folder, _ = trained
    other = recipe.model_copy(update={"lr": 0.5, "batch_size": 3})
    with pytest.raises(ProvenanceError, match=r"batch_size 2 there, 3 now; lr 0\.01 there, 0\.5 now"):
        train_segmentation(other, squares, micro_weights, folder, compute, {})
    with pytest.raises(ProvenanceError, match="images"):
        train_segmentation(recipe, squares.iloc[1:], micro_weights, folder, compute, {})


@pytest.mark.parametrize("split", ["train", "valid"])
def test_an_empty_split_is_named(
    split: str, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    with pytest.raises(MarsError, match=f"'{split}'"):
        train_segmentation(recipe, squares[squares["split"] != split], micro_weights, tmp_path, compute, {})


def test_a_diverging_training_says_so(
    recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    wild = recipe.model_copy(update={"lr": 1e30, "warmup_iterations": 0, "clip_grad": 0.0})
    with pytest.raises(MarsError, match="lower the recipe's lr"):
        train_segmentation(wild, squares, micro_weights, tmp_path / "wild", compute, {})


def test_the_pretrained_encoder_is_what_training_starts_from(
    recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    from safetensors.torch import load_file

    published = load_file(micro_weights / "model.safetensors")
    still = recipe.model_copy(update={"frozen": True, "iterations": 1})
    for encoder in ("prithvi_weights", "random"):
        folder = tmp_path / encoder
        train_segmentation(still.model_copy(update={"encoder": encoder}), squares, micro_weights, folder, compute, {})
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

    path = Path(__file__).parents[2] / "recipes" / "seg_paper_wce_0.2_0.8_filled.yaml"
    fields = yaml.safe_load(path.read_text())["ops"]["seg_model"]["config"]
    small = {"neck_channels": 8, "head_channels": 8, "crop_size": 32, "window": 32, "stride": 16, "iterations": 2}
    report = train_segmentation(
        SegRecipe(**{**fields, **small}), squares, micro_weights, tmp_path / "paper", compute, {}
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
    import shutil

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


def test_an_unfinished_or_damaged_model_is_named(trained: Trained, tmp_path: Path):
    import shutil

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


def test_the_authors_pairing_gives_masks_to_images_further_on(squares: pd.DataFrame, tmp_path: Path):
    """Of images 0 to 5 the second is empty: the list without it is 0, 2, 3, 4, 5, and mask 2 looks for its place 2."""
    images = _with_empty(squares, tmp_path, (1,))
    train = _chosen(images, SegRecipe(authors_pairing=True)).query("split == 'train'")
    assert train["image_id"].tolist() == ["image_0", "image_3", "image_4", "image_5"]
    assert train["chip"].tolist() == [squares["chip"][place] for place in (0, 3, 4, 5)]
    assert train["mask"].tolist() == [squares["mask"][place] for place in (0, 2, 3, 4)]


def test_nothing_is_trained_on_without_a_crater(squares: pd.DataFrame, tmp_path: Path):
    images = _with_empty(squares, tmp_path, tuple(range(6)))
    with pytest.raises(MarsError, match="no training image has a crater"):
        _chosen(images, SegRecipe(drop_empty=True))


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
    report = train_segmentation(recipe, squares, micro_weights, tmp_path / "model", compute, {})
    masks = predict_masks(tmp_path / "model", squares, tmp_path / "cache", compute)
    row = evaluate(masks, squares, "valid", resamples=2).row
    # The prediction is kept in 8 bits: a pixel of probability 0.5 may fall to either side.
    assert row["iou_background"] == pytest.approx(report["iou_background"], abs=2e-3)
    assert row["miou"] == pytest.approx(report["miou"], abs=2e-3)


@pytest.mark.parametrize("normalize", ["statistics", "image"])
def test_a_picture_is_seen_as_the_chip_that_is_made_of_it(
    normalize: str, recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    wanted = recipe.model_copy(update={"normalize": normalize})
    train_segmentation(wanted, squares, micro_weights, tmp_path / "model", compute, {})
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
    masks = predict_masks(trained[0], images, tmp_path / "cache", compute)

    def judged() -> tuple[Evaluation, pd.DataFrame]:
        with Remembered(tmp_path / "counts.json", "1") as remembered:
            evaluation = evaluate_module.evaluate(masks, images, "valid", resamples=5, remembered=remembered)
            return evaluation, crater_catalogue(masks, images, remembered=remembered)

    counted: list[Path] = []
    monkeypatch.setattr(evaluate_module, "read_mask", lambda path: counted.append(path) or read_mask(path))
    n_valid = int((images["split"] == "valid").sum())
    first, again = judged(), judged()
    assert len(counted) == n_valid
    assert first[0].row == again[0].row
    pd.testing.assert_frame_equal(first[0].images, again[0].images)
    pd.testing.assert_frame_equal(first[1], again[1])
    plain = evaluate(masks, images.drop(columns="labels_sha"), "valid", resamples=5)
    assert plain.row == first[0].row
    counted.clear()
    images.loc[images["split"] == "valid", "labels_sha"] += " corrected"
    judged()
    assert len(counted) == n_valid


def test_validations_take_one_orientation(
    recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, micro_weights: Path, tmp_path: Path
):
    reports, masks = {}, {}
    for name, orientations in {"one": False, "all": True}.items():
        wanted = recipe.model_copy(update={"all_orientations": orientations})
        reports[name] = train_segmentation(wanted, squares, micro_weights, tmp_path / name, compute, {})
        masks[name] = predict_masks(tmp_path / name, squares, tmp_path / f"{name} masks", compute)
    assert reports["one"] | {"seconds": 0} == reports["all"] | {"seconds": 0}
    one, many = ([read_probability(path) for path in some.values()] for some in masks.values())
    assert any(not np.array_equal(*pair) for pair in zip(one, many, strict=True)), "predictions take all of them"


def test_small_craters_need_their_numbers(recipe: SegRecipe, compute: Compute, squares: pd.DataFrame, tmp_path: Path):
    numbers = tmp_path / "numbers.png"
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(numbers)
    images = squares.assign(instances=numbers)
    items = _loader(images, "train", [], 2, compute)["dataset"]["items"]
    assert {item["instances_path"] for item in items} == {str(numbers)}
    assert "instances_path" not in _loader(squares, "train", [], 2, compute)["dataset"]["items"][0]


def test_the_authors_pairing_that_leaves_nothing_is_refused(squares: pd.DataFrame, tmp_path: Path):
    images = _with_empty(squares, tmp_path, (0,))
    images = pd.concat([images.iloc[:2], images.iloc[6:]], ignore_index=True)
    with pytest.raises(MarsError, match="leaves no training image"):
        _chosen(images, SegRecipe(authors_pairing=True))


def test_the_authors_pairing_is_for_images_of_one_size(squares: pd.DataFrame, tmp_path: Path):
    images = _with_empty(squares, tmp_path, (1,))
    wider = tmp_path / "wider.png"
    Image.fromarray(np.ones((64, 50), np.uint8)).save(wider)
    images.loc[3, "mask"] = wider
    with pytest.raises(MarsError, match="images of another size"):
        _chosen(images, SegRecipe(authors_pairing=True))
