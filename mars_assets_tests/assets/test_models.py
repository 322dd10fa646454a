"""What the models' assets train, and what they refuse before they do."""

import pandas as pd
import pytest

from mars_assets.assets.models import ClsModelConfig, _check_comparable, _recipe
from mars_assets.classification.recipe import ClsRecipe, stated_recipe_of
from mars_assets.errors import ProvenanceError
from mars_assets.lake import Lake
from mars_assets.models.versions import make_current, start_version
from mars_assets.storage.files import write_json

IMAGES = pd.DataFrame({"image_id": ["a"], "split": ["train"], "observation": ["A"]})


def test_a_model_is_not_judged_on_chips_of_other_statistics(lake: Lake) -> None:
    _check_comparable(lake, "seg_model", "v1")  # there is none in use
    folder = start_version(lake, "seg_model", "abc", IMAGES)
    write_json(folder / "config.json", {"provenance": {"statistics": "v1"}})
    make_current(lake, "seg_model", "abc", {})
    _check_comparable(lake, "seg_model", "v1")
    with pytest.raises(ProvenanceError, match=r"'v1'.*'v2'.*without retrain"):
        _check_comparable(lake, "seg_model", "v2")


def test_retraining_a_model_of_before_a_setting_trains_as_then(lake: Lake) -> None:
    write_json(start_version(lake, "cls_model", "v", IMAGES) / "config.json", {"recipe": {"steps": 50}})
    make_current(lake, "cls_model", "v", {})
    again = _recipe(ClsModelConfig(retrain=True), ClsRecipe, lake, "cls_model", stated_recipe_of)
    assert (again.steps, again.normalize, again.all_orientations) == (50, "statistics", False)
    assert _recipe(ClsModelConfig(), ClsRecipe, lake, "cls_model", stated_recipe_of) == ClsRecipe()
