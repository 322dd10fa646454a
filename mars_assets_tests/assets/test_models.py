"""The recipe that a configuration stands for."""

import pandas as pd

from mars_assets.assets.models import ClsModelConfig, _recipe
from mars_assets.classification.recipe import ClsRecipe, recipe_of
from mars_assets.lake import Lake, write_json
from mars_assets.models import make_current, start_version


def test_retraining_a_model_of_before_a_setting_trains_as_then(lake: Lake) -> None:
    images = pd.DataFrame({"image_id": ["a"], "split": ["train"], "observation": ["o"]})
    write_json(start_version(lake, "cls_model", "v", images) / "config.json", {"recipe": {"steps": 50}})
    make_current(lake, "cls_model", "v", {})
    again = _recipe(ClsModelConfig(retrain=True), ClsRecipe, lake, "cls_model", recipe_of)
    assert (again.steps, again.normalize, again.all_orientations) == (50, "statistics", False)
    assert _recipe(ClsModelConfig(), ClsRecipe, lake, "cls_model", recipe_of) == ClsRecipe()
