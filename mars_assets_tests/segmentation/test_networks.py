import numpy as np
import pytest
import torch

from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.mmseg_setup import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe
from mars_assets.training.compute import Compute

with mmseg_ready():
    from mmengine.logging import MMLogger
    from mmengine.optim import build_optim_wrapper
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    from mars_assets.segmentation import networks
    from mars_assets.segmentation.mmseg_config import mmseg_config

pytestmark = pytest.mark.usefixtures("ready")


def test_the_papers_neck_goes_from_14_to_224():
    neck = networks.ConvTransposeNeck(in_channels=24, channels=12)
    (out,) = neck([torch.randn(1, 5, 3, 3), torch.randn(2, 24, 14, 14)])
    assert out.shape == (2, 12, 224, 224)


def test_the_papers_neck_is_four_deconvolutions_with_a_norm_and_a_gelu_between_each_two():
    neck = networks.ConvTransposeNeck(in_channels=24, channels=12)
    kinds = [type(layer).__name__ for block in neck.blocks for layer in block]
    assert kinds == ["ConvTranspose2d", "LayerNorm2d", "GELU", "ConvTranspose2d"] * 2
    # 768 x 768 x 2 x 2 weights and 768 biases four times, and two norms
    full = networks.ConvTransposeNeck(768, 768)
    assert sum(p.numel() for p in full.parameters()) == 4 * (768 * 768 * 4 + 768) + 2 * 2 * 768


@pytest.mark.parametrize(("side", "patches"), [(224, 14), (112, 7), (224, 16), (96, 6)])
def test_the_detail_neck_gives_half_resolution_for_any_grid(side: int, patches: int):
    neck = networks.DetailNeck(in_channels=[24, 24], channels=16, image_channels=6, detail_channels=4)
    maps = [torch.randn(2, 24, patches, patches) for _ in range(2)]
    (out,) = neck([torch.randn(2, 6, side, side), *maps])
    assert out.shape == (2, neck.out_channels, side // 2, side // 2)


def test_every_level_and_the_image_reach_the_detail_neck():
    neck = networks.DetailNeck(in_channels=[8, 8], channels=16, image_channels=6, detail_channels=4).eval()
    inputs = [torch.randn(1, 6, 32, 32), torch.randn(1, 8, 2, 2), torch.randn(1, 8, 2, 2)]
    (before,) = neck(inputs)
    for index in range(3):
        changed = list(inputs)
        changed[index] = torch.randn_like(inputs[index])
        assert not torch.allclose(before, neck(changed)[0])


def test_contrast_to_the_surroundings_is_scipys_and_knows_no_light():
    from scipy import ndimage

    image = torch.randn(1, 1, 40, 50) * 3 + torch.linspace(0, 20, 50)
    found = networks.contrast_to_surroundings(image, 9)[0, 0].numpy()
    plain = image[0, 0].double().numpy()
    inside = (slice(8, -8), slice(8, -8))
    centred = plain - ndimage.uniform_filter(plain, 9)
    deviation = np.sqrt(ndimage.uniform_filter(centred**2, 9))
    np.testing.assert_allclose(found[inside], (centred / (deviation + 0.05))[inside], rtol=1e-4, atol=1e-4)
    brighter = networks.contrast_to_surroundings(image * 2 + 100, 9)[0, 0].numpy()
    np.testing.assert_allclose(brighter, found, atol=0.05)
    assert not networks.contrast_to_surroundings(torch.ones(1, 1, 20, 20), 9).any()


def test_the_preprocessor_normalises_six_bands():
    mean, std = np.arange(6) * 10.0, np.arange(6) + 1.0
    preprocessor = networks.BandDataPreProcessor(mean=mean, std=std, size=(8, 8))
    chip = torch.randn(6, 8, 8) * 100
    out = preprocessor({"inputs": [chip], "data_samples": [SegDataSample()]}, training=False)["inputs"]
    expected = (chip.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(out[0].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert not preprocessor.state_dict()  # the checkpoint does not carry what the config says
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_the_detail_branch_sees_the_contrast_to_the_surroundings():
    neck = networks.DetailNeck([16], channels=8, image_channels=6, detail_channels=4, local_contrast=9).eval()
    seen = []
    neck.down[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        neck([image, torch.randn(1, 16, 2, 2)])
    torch.testing.assert_close(seen[0][:, :6], image)
    torch.testing.assert_close(seen[0][:, 6:], networks.contrast_to_surroundings(image.mean(1, keepdim=True), 9))


def test_the_craterwise_loss_is_one_of_a_recipes_only_where_it_has_a_weight(
    micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 32, 32))))
    for weight in (0.0, 2.0):
        recipe = micro_recipe.model_copy(update={"craterwise_weight": weight})
        model = _segmenter("WindowedEncoderDecoder", recipe, micro, cpu)
        found = model.loss(torch.randn(1, 6, 32, 32), [sample])
        assert ("decode.loss_craterwise_dice" in found) == bool(weight)


def test_windows_cover_every_pixel_and_stay_inside():
    for length in range(32, 120, 7):
        starts = networks.window_starts(length, 32, 16)
        covered = {pixel for start in starts for pixel in range(start, start + 32)}
        assert covered == set(range(length))
    assert networks.window_starts(512, 224, 112) == [0, 112, 224, 288]


def _segmenter(kind: str, recipe: SegRecipe, micro: PrithviConfig, cpu: Compute) -> torch.nn.Module:
    config = mmseg_config(recipe, micro, cpu)
    config.model.type = kind
    if kind == "EncoderDecoder":
        for ours in ("scales", "orientations", "crater_prior", "crater_threshold", "crater_peak"):
            del config.model[ours]
    torch.manual_seed(1)
    return MODELS.build(config.model).eval()


def test_windows_in_batches_give_what_mmsegs_own_give(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    images = torch.randn(2, 6, 75, 61)
    ours = _segmenter("WindowedEncoderDecoder", micro_recipe, micro, cpu)
    theirs = _segmenter("EncoderDecoder", micro_recipe, micro, cpu)
    metas = [{"ori_shape": (75, 61), "img_shape": (75, 61)} for _ in range(2)]
    with torch.inference_mode():
        torch.testing.assert_close(ours.inference(images, metas), theirs.inference(images, metas), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 75), (32, 32), (5, 3)])
def test_images_smaller_than_the_window_are_mirrored(
    size: tuple[int, int], micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    image = torch.randn(1, 6, *size)
    model = _segmenter("WindowedEncoderDecoder", micro_recipe, micro, cpu)
    mirrored = np.pad(image.numpy(), [(0, 0), (0, 0)] + [(0, max(32 - side, 0)) for side in size], mode="symmetric")
    with torch.inference_mode():
        got = model.slide_inference(image, [])
        whole = model.slide_inference(torch.from_numpy(mirrored), [])
    assert got.shape == (1, 2, *size)
    torch.testing.assert_close(got, whole[:, :, : size[0], : size[1]])


def test_the_threshold_is_where_inference_says_a_half(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    image = torch.randn(1, 6, 64, 64, generator=torch.Generator().manual_seed(1))
    probabilities = []
    for threshold in (0.5, 0.2):
        torch.manual_seed(0)
        model = MODELS.build(
            mmseg_config(micro_recipe.model_copy(update={"threshold": threshold}), micro, cpu).model
        ).eval()
        with torch.inference_mode():
            probabilities.append(model.slide_inference(image, [])[0].softmax(0)[1])
    plain, shifted = probabilities
    torch.testing.assert_close(shifted, plain * 0.8 / (plain * 0.8 + (1 - plain) * 0.2))
    assert ((plain > 0.2) == (shifted > 0.5)).all()


def test_a_crater_must_reach_the_peak_somewhere():
    margins = torch.full((2, 6, 8), -3.0)
    margins[0, 1:3, 1:3] = torch.tensor([[0.5, 2.0], [1.0, 0.1]])  # faint
    margins[0, 1:3, 5:8] = 1.0
    margins[0, 2, 6] = 4.0  # certain somewhere
    margins[0, 3, 3] = 5.0  # touches the faint one at a corner only
    margins[1, 5, 5] = 2.9
    left = margins - networks.excess_of_faint(margins, 3.0)
    expected = margins.clone()
    expected[0, 1:3, 1:3] -= 2.05
    expected[1, 5, 5] = -0.05
    torch.testing.assert_close(left, expected)
    assert (left > 0).sum() == 7


def test_predictions_are_those_of_the_mean_with_what_is_faint_taken_out(
    micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    image = torch.randn(1, 6, 64, 64, generator=torch.Generator().manual_seed(1))
    model = _segmenter("WindowedEncoderDecoder", micro_recipe, micro, cpu)
    with torch.inference_mode():
        plain = model.slide_inference(image, [])
        margins = plain[:, 1] - plain[:, 0]
        model.crater_threshold = float(margins.quantile(0.7).sigmoid())
        lowered = margins - margins.quantile(0.7)
        peak = float(lowered.max()) * 0.8
        model.crater_peak = float((margins.quantile(0.7) + peak).sigmoid())
        got = model.slide_inference(image, [])
    expected = lowered - networks.excess_of_faint(lowered, peak)
    assert 0 < (expected > 0).sum() < (lowered > 0).sum()
    torch.testing.assert_close(got[:, 1] - got[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_inference_over_orientations_turns_with_the_image(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    recipe = micro_recipe.model_copy(update={"all_orientations": True})
    model = _segmenter("WindowedEncoderDecoder", recipe, micro, cpu)
    image = torch.randn(1, 6, 48, 48)
    with torch.inference_mode():
        turned = model.slide_inference(image.rot90(1, (2, 3)), [])
        expected = model.slide_inference(image, []).rot90(1, (2, 3))
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_inference_at_scales_is_the_mean_of_each(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    image, found = torch.randn(1, 6, 64, 80), []
    for scales in ([0.5], [1.0], [0.5, 1.0]):
        model = _segmenter("WindowedEncoderDecoder", micro_recipe.model_copy(update={"scales": scales}), micro, cpu)
        with torch.inference_mode():
            found.append(model.slide_inference(image, []))
    assert found[0].shape == (1, 2, 64, 80)
    torch.testing.assert_close(found[2], (found[0] + found[1]) / 2)
    assert not torch.allclose(found[0], found[1])


def test_the_heads_start_from_the_prior(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    recipe = micro_recipe.model_copy(update={"crater_prior": 0.02, "auxiliary_head": True})
    model = MODELS.build(mmseg_config(recipe, micro, cpu).model)
    # mmengine writes into the newest log, which may be the closed one of another test's training.
    MMLogger.get_instance("the heads' prior")
    model.init_weights()
    for head in (model.decode_head, model.auxiliary_head):
        assert head.conv_seg.bias.softmax(0)[1].item() == pytest.approx(0.02, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"neck": "pyramid"},
        {"neck": "deconvolution", "auxiliary_head": True},
        {"magnify": 2},
        {"magnify": 0.5, "neck_channels": 6},
        {"architecture": "unet", "unet_channels": 2, "unet_stages": 3},
        {"loss": "focal"},
        {"local_contrast": 9, "craterwise_weight": 1.0},
    ],
    ids=str,
)
def test_every_architecture_segments_at_full_resolution(
    changes: dict, micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    model = _segmenter("WindowedEncoderDecoder", micro_recipe.model_copy(update=changes), micro, cpu)
    with torch.inference_mode():
        assert model.slide_inference(torch.randn(1, 6, 40, 33), []).shape == (1, 2, 40, 33)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 2, (1, 32, 32))))
    total, _ = model.train().parse_losses(model.loss(torch.randn(2, 6, 32, 32), [sample, sample]))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.decode_head.parameters())


@pytest.mark.parametrize("magnify", [2, 0.5])
def test_a_magnified_encoder_sees_the_same_ground_in_other_patches(magnify: float, micro: PrithviConfig):
    backbone = networks.PrithviBackbone(micro.to_dict(), [3], magnify=magnify).eval()
    plain = networks.PrithviBackbone(micro.to_dict(), [3]).eval()
    plain.load_state_dict(backbone.state_dict())
    image = torch.randn(1, 6, 32, 64)
    (other,), (usual,) = backbone(image), plain(image)
    assert other.shape[2:] == (magnify * usual.shape[2], magnify * usual.shape[3])
    magnified = torch.nn.functional.interpolate(
        image, scale_factor=magnify, mode="bilinear", align_corners=False, antialias=magnify < 1
    )
    torch.testing.assert_close(other, plain(magnified)[0])


@pytest.mark.parametrize(("magnify", "stages"), [(0.25, 5), (0.5, 4), (1, 3), (2, 3)])
def test_the_branch_of_details_reaches_the_encoders_maps(
    magnify: float, stages: int, micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute
):
    recipe = micro_recipe.model_copy(update={"magnify": magnify, "crop_size": 64, "window": 64})
    model = _segmenter("WindowedEncoderDecoder", recipe, micro, cpu)
    coarsest, *_, last = model.backbone(torch.randn(1, 6, 64, 64))
    for down in model.neck.down:
        coarsest = down(coarsest)
    assert len(model.neck.down) == stages
    assert coarsest.shape[2] == (8 if stages == 3 else 2 * last.shape[2])


def test_a_frozen_encoder_takes_no_gradient(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    config = mmseg_config(micro_recipe.model_copy(update={"frozen": True}), micro, cpu)
    model = MODELS.build(config.model)
    trained = {
        id(p) for g in build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups for p in g["params"]
    }
    assert not any(id(p) in trained or p.requires_grad for p in model.backbone.parameters())
    assert trained
