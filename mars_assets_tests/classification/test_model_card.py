import json

from mars_assets.classification.model_card import model_card
from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.train import train_classifier
from mars_assets.storage.files import read_json
from mars_assets.training.run_folder import TrainingJob

RECIPE = ClsRecipe(image_size=32, batch_size=4, steps=2, warmup_steps=1, evaluate_every=2)


def test_a_card_states_data_training_and_limits(images, weights, compute, tmp_path):
    provenance = {"weights": "mars_weights 0123", "label_version": "f" * 64, "stage": "imputed_post_norm"}
    report = train_classifier(TrainingJob(RECIPE, images, weights, tmp_path, compute, provenance))
    card = model_card("0a1b", read_json(tmp_path / "config.json"), images)
    for stated in (
        "# Crater classifier 0a1b",
        "Prithvi's encoder (mars_weights 0123, fine-tuned)",
        "| train   |       16 |         8 |              4 |",
        f"{report['trained_parameters']:,}",
        "eight orientations",
        "- mask_ratio: 0.375",
        "Not for",
    ):
        assert stated in card
    config = json.loads((tmp_path / "config.json").read_text())
    config["recipe"]["architecture"] = "resnet18"
    assert "timm's resnet18, from random weights" in model_card("x", config, images)
    config["recipe"]["architecture"] = "seg_model"
    config["provenance"]["weights"] = "seg_model 4567"
    outlining = model_card("x", config, images)
    assert "A segmentation network (seg_model 4567, fine-tuned)" in outlining
    assert "- image_size: 32" in outlining
    assert "mask_ratio" not in outlining, "it does nothing there"
