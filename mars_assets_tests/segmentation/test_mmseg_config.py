import warnings

import pytest

from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.training.compute import Compute

with mmseg_ready():
    from mmseg.registry import MODELS

    from mars_assets.segmentation import losses
    from mars_assets.segmentation.mmseg_config import mmseg_config

pytestmark = pytest.mark.usefixtures("ready")


def test_mmsegs_losses_can_be_named_beside_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert MODELS.build({"type": "FocalLoss"}) is not None
        assert isinstance(MODELS.build({"type": "MaskedDiceLoss"}), losses.MaskedDiceLoss)


def test_options_reach_the_config_and_unknown_ones_are_refused(
    micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    focal = {"model.decode_head.loss_decode": [{"type": "FocalLoss", "gamma": 3.0}]}
    config = mmseg_config(micro_recipe.model_copy(update={"mmseg_options": focal}), micro, cpu)
    assert MODELS.build(config.model).decode_head.loss_decode[0].gamma == 3.0
    with pytest.raises(MarsError, match="modle"):
        mmseg_config(micro_recipe.model_copy(update={"mmseg_options": {"modle.neck": {}}}), micro, cpu)


def test_crops_that_the_unet_cannot_halve_are_refused(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    recipe = micro_recipe.model_copy(update={"architecture": "unet", "unet_stages": 7})
    with pytest.raises(MarsError, match="crop_size=32 must be a multiple of 64"):
        mmseg_config(recipe, micro, cpu)


def test_crops_that_patches_do_not_divide_are_refused(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    with pytest.raises(MarsError, match="crop_size=40"):
        mmseg_config(micro_recipe.model_copy(update={"crop_size": 40}), micro, cpu)
    # What must fit is what the encoder sees.
    magnified = micro_recipe.model_copy(update={"crop_size": 64, "window": 48, "magnify": 0.5})
    with pytest.raises(MarsError, match=r"window=48 must be a multiple of 32 pixels, .* magnified 0.5 times"):
        mmseg_config(magnified, micro, cpu)
    mmseg_config(micro_recipe.model_copy(update={"crop_size": 40, "window": 40, "magnify": 2}), micro, cpu)
