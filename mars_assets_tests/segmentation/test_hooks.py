import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.training.compute import Compute

with mmseg_ready():
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    from mars_assets.segmentation.metrics import CraterMetric
    from mars_assets.segmentation.mmseg_config import mmseg_config

pytestmark = pytest.mark.usefixtures("ready")


def test_miou_is_scikit_learns_over_all_pixels_of_all_images():
    rng = np.random.default_rng(1)
    metric = CraterMetric()
    metric.dataset_meta = {"classes": ("background", "crater")}
    truths, predictions = [], []
    for size in ((30, 20), (11, 50), (64, 64)):
        truth = rng.choice([0, 1, 255], size, p=[0.7, 0.2, 0.1])
        predicted = rng.integers(0, 2, size)
        metric.process(
            {},
            [
                {
                    "pred_sem_seg": {"data": torch.from_numpy(predicted)[None]},
                    "gt_sem_seg": {"data": torch.from_numpy(truth)[None]},
                }
            ],
        )
        truths.append(truth[truth != 255])
        predictions.append(predicted[truth != 255])
    got = metric.compute_metrics(metric.results)
    truth, predicted = np.concatenate(truths), np.concatenate(predictions)
    assert got["miou"] == pytest.approx(jaccard_score(truth, predicted, average="macro"), rel=1e-9)
    assert got["iou_crater"] == pytest.approx(jaccard_score(truth, predicted), rel=1e-9)
    assert all(type(value) is float for value in got.values())


def test_learning_rates_fall_from_the_last_block_to_the_first(
    micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    recipe = micro_recipe.model_copy(update={"lr": 0.5, "encoder_lr": 0.1, "layer_decay": 0.5, "weight_decay": 0.2})
    config = mmseg_config(recipe, micro, cpu)
    model = MODELS.build(config.model)
    optimizer = build_optim_wrapper(model, config.optim_wrapper).optimizer
    settings = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(settings) == sum(1 for _ in model.parameters())
    for name, factor in {
        "decode_head.conv_seg.weight": 1.0,
        "neck.projections.0.weight": 1.0,
        "backbone.encoder.norm.weight": 0.1,
        "backbone.encoder.blocks.3.attn.qkv.weight": 0.1,
        "backbone.encoder.blocks.0.mlp.fc1.bias": 0.1 * 0.5**3,
        "backbone.encoder.patch_embed.proj.weight": 0.1 * 0.5**4,
        "backbone.encoder.cls_token": 0.1 * 0.5**4,
    }.items():
        group = settings[id(model.get_parameter(name))]
        assert group["lr"] == pytest.approx(0.5 * factor)
        decayed = name.endswith("weight") and "norm" not in name
        assert group["weight_decay"] == (0.2 if decayed else 0.0)


def test_a_unet_learns_at_one_rate(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    recipe = micro_recipe.model_copy(update={"architecture": "unet", "unet_channels": 2, "unet_stages": 3, "lr": 0.5})
    config = mmseg_config(recipe, micro, cpu)
    optimizer = build_optim_wrapper(MODELS.build(config.model), config.optim_wrapper).optimizer
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}


@pytest.mark.parametrize("schedule", ["constant", "poly", "cosine"])
def test_the_schedule_is_mmcvs(schedule: str, micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    """mmcv 0.x, which the paper used: the regular rate times the warm-up's share of it, k / warm-up."""
    recipe = micro_recipe.model_copy(update={"schedule": schedule, "steps": 20, "warmup_steps": 5, "lr": 1.0})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = [
        PARAM_SCHEDULERS.build(part, default_args={"optimizer": optimizer})
        for part in mmseg_config(recipe, micro, cpu).param_scheduler
    ]
    for k in range(20):
        regular = {"constant": 1.0, "poly": 1 - k / 20, "cosine": (1 + np.cos(np.pi * k / 20)) / 2}[schedule]
        assert optimizer.param_groups[0]["lr"] == pytest.approx(regular * min(k / 5, 1), rel=1e-4, abs=2e-6)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()


def test_autocast_computes_in_bf16_on_the_cpu(micro_recipe: SegRecipe, micro: PrithviConfig):
    config = mmseg_config(micro_recipe, micro, Compute("cpu", "bf16", 1, 0))
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    images = torch.randn(2, 6, 32, 32)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 32, 32))))
    with wrapper.optim_context(model):
        assert model._forward(images).dtype == torch.bfloat16
        losses = model.loss(images, [sample, sample])
    total, _ = model.parse_losses(losses)
    assert torch.isfinite(total)
    wrapper.update_params(total)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
