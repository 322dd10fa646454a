"""Training a version: what it refuses before it trains, and the recipe that retraining takes."""

import pandas as pd
import pytest

from mars_assets.classification.recipe import ClsRecipe
from mars_assets.classification.task import CLASSIFICATION
from mars_assets.errors import ProvenanceError
from mars_assets.lake import Lake
from mars_assets.models.train import _refuse_other_statistics, recipe_in_use
from mars_assets.models.versions import current_model, make_current, start_version
from mars_assets.storage.files import write_json

IMAGES = pd.DataFrame({"image_id": ["a"], "split": ["train"], "observation": ["A"]})


def test_a_model_is_not_evaluated_on_chips_with_other_statistics(lake: Lake) -> None:
    folder = start_version(lake, "seg_model", "abc", IMAGES)
    write_json(folder / "config.json", {"provenance": {"statistics": "v1"}})
    make_current(lake, "seg_model", "abc", {})
    model = current_model(lake, "seg_model")
    _refuse_other_statistics(model, "v1")
    with pytest.raises(ProvenanceError, match=r"'v1'.*'v2'.*without retrain"):
        _refuse_other_statistics(model, "v2")


def test_retraining_a_model_of_before_a_setting_trains_as_then(lake: Lake) -> None:
    stated = ClsRecipe()
    assert recipe_in_use(lake, CLASSIFICATION, stated) is stated
    write_json(start_version(lake, "cls_model", "v", IMAGES) / "config.json", {"recipe": {"steps": 50}})
    make_current(lake, "cls_model", "v", {})
    again = recipe_in_use(lake, CLASSIFICATION, stated)
    assert (again.steps, again.normalize, again.all_orientations) == (50, "statistics", False)
