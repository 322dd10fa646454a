import pytest
import torch
import torch.nn.functional as F

from mars_assets.errors import MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.fusion import deconvolve_and_convolve
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.training.compute import Compute


def _one_after_the_other(x, deconvolution, deconvolution_bias, convolution, bias):
    large = F.conv_transpose2d(x, deconvolution, deconvolution_bias, stride=2)
    return F.conv2d(large, convolution, bias, padding=1)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 3, 1, 1), (3, 3, 7, 2)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_two_at_once_are_the_two_one_after_the_other(shape: tuple[int, ...], with_bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64)
    weights = [torch.randn(size, dtype=torch.float64) for size in ((3, 6, 2, 2), (6,), (5, 6, 3, 3))]
    arguments = [x, *weights, *([torch.randn(5, dtype=torch.float64)] if with_bias else [])]
    for argument in arguments:
        argument.requires_grad_()
    padded = [*arguments, None][:5]
    ours, theirs = deconvolve_and_convolve(*padded), _one_after_the_other(*padded)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, arguments, direction), torch.autograd.grad(theirs, arguments, direction)
    )


def _paper(micro: PrithviConfig, micro_recipe: SegRecipe, **options: object) -> torch.nn.Module:
    recipe = micro_recipe.model_copy(
        update={"neck": "deconvolution", "auxiliary_head": True, "mmseg_options": options, "dropout": 0.0}
    )
    with mmseg_ready():
        from mmseg.registry import MODELS

        from mars_assets.segmentation.mmseg_config import mmseg_config

        return MODELS.build(mmseg_config(recipe, micro, Compute("cpu", "fp32", 1, 0)).model)


@pytest.mark.parametrize("norm", [{"type": "BN"}, None], ids=["with norm", "without"])
def test_the_papers_network_is_the_same_with_its_neck_finished_by_the_heads(
    norm: dict | None, micro: PrithviConfig, micro_recipe: SegRecipe
) -> None:
    """Against mmseg's own head on the whole neck, whose parameters are the same by name: loss and gradients."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    heads = {f"model.{head}.norm_cfg": norm for head in ("decode_head", "auxiliary_head")}
    ours = _paper(micro, micro_recipe, **heads)
    # Under its full name the neck is left whole.
    theirs = _paper(micro, micro_recipe, **heads, **{"model.neck.type": "mmseg.ConvTransposeNeck"})
    assert type(ours.decode_head).__name__ == "DeconvolvingFCNHead"
    assert type(theirs.decode_head).__name__ == "FCNHead"
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 6, 32, 32)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 32, 32)))) for _ in range(2)]
    gradients = []
    for model in (ours, theirs):
        total, _ = model.parse_losses(model.loss(images, samples))
        total.backward()
        gradients.append([total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(*gradients, rtol=2e-4, atol=2e-6)


def test_another_head_gets_the_whole_neck(micro: PrithviConfig, micro_recipe: SegRecipe) -> None:
    model = _paper(micro, micro_recipe, **{"model.decode_head.num_convs": 0, "model.decode_head.channels": 8})
    assert type(model.decode_head).__name__ == "FCNHead"
    with torch.inference_mode():
        assert model.eval().slide_inference(torch.randn(1, 6, 40, 40), []).shape == (1, 2, 40, 40)


@pytest.mark.parametrize(
    "options",
    [
        {"model.decode_head.dilation": 2},
        {"model.decode_head.kernel_size": 5},
        {"model.decode_head.concat_input": True},
        {"model.decode_head": {"_delete_": True, "type": "FCNHead", "in_channels": 8, "channels": 8, "num_classes": 2}},
    ],
    ids=str,
)
def test_heads_that_are_not_the_papers_are_left_alone(
    options: dict, micro: PrithviConfig, micro_recipe: SegRecipe
) -> None:
    model = _paper(micro, micro_recipe, **options)
    assert type(model.decode_head).__name__ == "FCNHead"
    with torch.inference_mode():
        assert model.eval().slide_inference(torch.randn(1, 6, 32, 32), []).shape == (1, 2, 32, 32)


def test_options_that_do_not_fit_are_named(micro: PrithviConfig, micro_recipe: SegRecipe) -> None:
    with pytest.raises(MarsError, match="mmseg_options does not fit"):
        _paper(micro, micro_recipe, **{"model.decode_head.loss_decode": {"type": "FocalLoss"}})
