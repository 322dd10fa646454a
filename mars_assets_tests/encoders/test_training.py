"""Models of both tasks from an encoder of another family than Prithvi's."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from mars_assets.classification.checkpoint import open_classifier
from mars_assets.classification.predict import predict
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import train_classifier
from mars_assets.encoders.config import GalileoConfig, trained_encoder
from mars_assets.encoders.weights import architecture_of, install_encoder
from mars_assets.errors import MarsError
from mars_assets.lake import Lake
from mars_assets.models.starting_point import initial_encoder
from mars_assets.segmentation.checkpoint import open_segmenter
from mars_assets.segmentation.predict import predict_masks
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.segmentation.train import train_segmentation
from mars_assets.training.compute import Compute
from mars_assets.training.run_folder import TrainingJob

pytestmark = pytest.mark.slow

NANO = "galileo_nano"
COMPUTE = Compute("cpu", "fp32", 1, seed=5)
RECIPE = ClsRecipe(encoder=NANO, image_size=32, batch_size=4, steps=4, warmup_steps=1, evaluate_every=2, lr=1e-3)


@pytest.fixture(scope="module")
def weights(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    lake = Lake.at(tmp_path_factory.mktemp("lake"))
    return install_encoder(lake, NANO, shared / "data" / "galileo" / "encoder.pt")


@pytest.fixture(scope="module")
def classified(squares: pd.DataFrame) -> pd.DataFrame:
    return squares.assign(label=[0, 1] * 5)


def train(recipe: ClsRecipe, images: pd.DataFrame, weights: Path, folder: Path, cache: Path | None = None) -> dict:
    return train_classifier(TrainingJob(recipe, images, weights, folder, COMPUTE, {}, cache=cache))


def test_a_classifier_is_trained_opened_and_used(classified: pd.DataFrame, weights: Path, tmp_path: Path) -> None:
    report = train(RECIPE, classified, weights, tmp_path / "model")
    classifier, config = open_classifier(tmp_path / "model")
    assert config["encoder"]["family"] == "galileo"
    encoder = trained_encoder(config)
    assert isinstance(encoder, GalileoConfig)
    assert encoder.normalize == RECIPE.normalize == "image"
    assert report["parameters"] == sum(parameter.numel() for parameter in classifier.parameters())
    found = predict(tmp_path / "model", classified, tmp_path / "cache", COMPUTE)
    assert found["probability"].between(0, 1).all()
    assert found["probability"].nunique() == len(classified)


def test_every_layer_learns_at_its_rate(classified: pd.DataFrame, weights: Path, tmp_path: Path) -> None:
    from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]

    train(RECIPE, classified, weights, tmp_path)
    classifier, _ = open_classifier(tmp_path)
    groups = param_groups_layer_decay(
        classifier.layers, no_weight_decay_list=classifier.without_decay, layer_decay=0.5, weight_decay=0.1
    )
    names = {parameter: name for name, parameter in classifier.named_parameters()}
    of_names = {names[parameter]: group for group in groups for parameter in group["params"]}
    assert len(of_names) == len(list(classifier.named_parameters()))
    assert of_names["head.weight"]["lr_scale"] == 1
    assert of_names["encoder.blocks.3.attn.qkv.weight"]["lr_scale"] == 0.5
    assert of_names["encoder.norm.weight"]["lr_scale"] == 0.5
    assert of_names["encoder.blocks.0.attn.qkv.weight"]["lr_scale"] == 0.5**4
    for stem in ("encoder.space_time_embed.S2_RGB.proj.weight", "encoder.s_t_channel_embed"):
        assert of_names[stem]["lr_scale"] == 0.5**5
    assert of_names["encoder.s_t_channel_embed"]["weight_decay"] == 0


def test_a_frozen_encoder_passes_once_over_the_images(classified: pd.DataFrame, weights: Path, tmp_path: Path) -> None:
    frozen = {"frozen": True, "mask_ratio": 0.0, "augment": "none"}
    for number, lr in enumerate((1e-3, 1e-2)):
        recipe = RECIPE.model_copy(update={**frozen, "lr": lr})
        train(recipe, classified, weights, tmp_path / str(number), tmp_path / "features")
    (cached,) = (tmp_path / "features").glob("*.safetensors")
    written = cached.stat().st_mtime_ns
    train(RECIPE.model_copy(update=frozen | {"lr": 0.1}), classified, weights, tmp_path / "2", tmp_path / "features")
    assert cached.stat().st_mtime_ns == written
    first, second = (open_classifier(tmp_path / str(number))[0] for number in range(2))
    assert all(
        torch.equal(value, second.state_dict()[name])
        for name, value in first.state_dict().items()
        if name.startswith("encoder.")
    )


def test_features_of_other_weights_are_not_taken_for_these(
    classified: pd.DataFrame, weights: Path, tmp_path: Path
) -> None:
    frozen = {"frozen": True, "mask_ratio": 0.0, "augment": "none"}
    for encoder in (NANO, f"shuffled:{NANO}"):
        recipe = RECIPE.model_copy(update={**frozen, "encoder": encoder})
        train(recipe, classified, weights, tmp_path / encoder.replace(":", "_"), tmp_path / "features")
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "class_token"}, "galileo_nano has no class token: set pooling to mean"),
        ({"image_size": 36}, r"image_size=36: galileo_nano cuts images into patches of 8 x 8 .* such as 32"),
        ({"mask_ratio": 0.99}, "removes all 16 patches"),
    ],
)
def test_what_it_cannot_do_is_refused_at_once(
    settings: dict, message: str, classified: pd.DataFrame, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(MarsError, match=message):
        train(RECIPE.model_copy(update=settings), classified, weights, tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_of_earlier_versions_are_opened(classified: pd.DataFrame, micro_weights: Path, tmp_path: Path) -> None:
    """They state their encoder as prithvi."""
    train(RECIPE.model_copy(update={"encoder": "prithvi_weights"}), classified, micro_weights, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({("prithvi" if name == "encoder" else name): value for name, value in config.items()}))
    assert open_classifier(tmp_path)[0].config.variant == "micro"


def test_a_convolutional_network_is_trained_frozen_and_whole(classified: pd.DataFrame, tmp_path: Path) -> None:
    """A frozen one keeps the statistics of its batch norms."""
    lake = Lake.at(tmp_path / "lake")
    folder = architecture_of(lake, "resnet18.a1_in1k")
    recipe = RECIPE.model_copy(update={"encoder": "random:resnet18.a1_in1k", "mask_ratio": 0.0})
    for frozen in (False, True):
        own = recipe.model_copy(update={"frozen": frozen})
        train(own, classified, folder, tmp_path / str(frozen))
        classifier, _ = open_classifier(tmp_path / str(frozen))
        start = initial_encoder(own, folder, COMPUTE).state_dict()
        kept = [name for name, value in classifier.encoder.state_dict().items() if torch.equal(value, start[name])]
        assert (len(kept) == len(start)) == frozen
        assert ("model.bn1.running_mean" in kept) == frozen
    with pytest.raises(MarsError, match=r"resnet18\.a1_in1k has no patches that could be left out"):
        train(recipe.model_copy(update={"mask_ratio": 0.3}), classified, folder, tmp_path / "masked")
    with pytest.raises(MarsError, match="has maps of several resolutions, which no neck takes"):
        train_segmentation(
            TrainingJob(SegRecipe(encoder="random:resnet18.a1_in1k"), classified, folder, tmp_path / "seg", COMPUTE, {})
        )


def test_a_vision_transformer_of_timm_is_trained(classified: pd.DataFrame, tmp_path: Path) -> None:
    name = "random:vit_tiny_patch16_224.augreg_in21k"
    folder = architecture_of(Lake.at(tmp_path / "lake"), name.partition(":")[2])
    recipe = RECIPE.model_copy(update={"encoder": name, "mask_ratio": 0.25, "pooling": "class_token"})
    train(recipe, classified, folder, tmp_path / "model")
    classifier, config = open_classifier(tmp_path / "model")
    assert config["encoder"]["family"] == "timm"
    groups = classifier.group_matcher()
    assert re.match(groups["stem"], "encoder.model.patch_embed.proj.weight")
    assert re.match(groups["stem"], "encoder.model.pos_embed")
    assert re.match(groups["blocks"][0][0], "encoder.model.blocks.11.attn.qkv.weight")[1] == "11"  # type: ignore[index]
    assert not re.match(groups["stem"], "head.weight")


@pytest.mark.parametrize("neck", ["detail", "pyramid", "deconvolution"])
def test_a_segmenter_is_trained_opened_and_used(
    neck: str, squares: pd.DataFrame, weights: Path, tmp_path: Path
) -> None:
    recipe = SegRecipe(
        encoder=NANO,
        neck=neck,
        neck_channels=8,
        detail_channels=4,
        head_channels=8,
        layers=2,
        crop_size=32,
        window=32,
        stride=16,
        batch_size=2,
        steps=4,
        evaluate_every=2,
        warmup_steps=1,
        **({} if neck == "detail" else {"local_contrast": 0}),
    )
    report = train_segmentation(TrainingJob(recipe, squares, weights, tmp_path / "model", COMPUTE, {}))
    network, _ = open_segmenter(tmp_path / "model")
    assert isinstance(network.backbone.encoder.config, GalileoConfig)
    assert report["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    masks = predict_masks(tmp_path / "model", squares, tmp_path / "masks", COMPUTE)
    assert len(masks) == len(squares)


def test_a_crop_that_its_patches_do_not_divide_is_refused(squares: pd.DataFrame, weights: Path, tmp_path: Path) -> None:
    recipe = SegRecipe(encoder=NANO, crop_size=36, window=36, stride=18, layers=2)
    with pytest.raises(MarsError, match="galileo_nano cuts it into patches"):
        train_segmentation(TrainingJob(recipe, squares, weights, tmp_path, COMPUTE, {}))
