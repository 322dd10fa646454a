import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from mars_assets.compute import Compute
from mars_assets.errors import DamagedFileError, MarsError
from mars_assets.prithvi.config import PrithviConfig
from mars_assets.segmentation.mmseg import mmseg_ready
from mars_assets.segmentation.recipe import SegRecipe

with mmseg_ready():
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS
    from mmengine.structures import PixelData
    from mmseg.models.losses import DiceLoss
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    from mars_assets.segmentation import registry
    from mars_assets.segmentation.config import mmseg_config


@pytest.fixture(autouse=True)
def _ready():
    torch.manual_seed(0)
    np.random.seed(0)
    with mmseg_ready():
        yield


def test_the_papers_neck_goes_from_14_to_224():
    neck = registry.ConvTransposeNeck(in_channels=24, channels=12)
    (out,) = neck([torch.randn(1, 5, 3, 3), torch.randn(2, 24, 14, 14)])
    assert out.shape == (2, 12, 224, 224)


def test_the_papers_neck_is_four_deconvolutions_with_a_norm_and_a_gelu_between_each_two():
    neck = registry.ConvTransposeNeck(in_channels=24, channels=12)
    kinds = [type(layer).__name__ for block in neck.blocks for layer in block]
    assert kinds == ["ConvTranspose2d", "LayerNorm2d", "GELU", "ConvTranspose2d"] * 2
    # 768 x 768 x 2 x 2 weights and 768 biases four times, and two norms
    full = registry.ConvTransposeNeck(768, 768)
    assert sum(p.numel() for p in full.parameters()) == 4 * (768 * 768 * 4 + 768) + 2 * 2 * 768


@pytest.mark.parametrize(("side", "patches"), [(224, 14), (112, 7), (224, 16), (96, 6)])
def test_the_detail_neck_gives_half_resolution_for_any_grid(side: int, patches: int):
    neck = registry.DetailNeck(in_channels=[24, 24], channels=16, image_channels=6, detail_channels=4)
    maps = [torch.randn(2, 24, patches, patches) for _ in range(2)]
    (out,) = neck([torch.randn(2, 6, side, side), *maps])
    assert out.shape == (2, neck.out_channels, side // 2, side // 2)


def test_every_level_and_the_image_reach_the_detail_neck():
    neck = registry.DetailNeck(in_channels=[8, 8], channels=16, image_channels=6, detail_channels=4).eval()
    inputs = [torch.randn(1, 6, 32, 32), torch.randn(1, 8, 2, 2), torch.randn(1, 8, 2, 2)]
    (before,) = neck(inputs)
    for index in range(3):
        changed = list(inputs)
        changed[index] = torch.randn_like(inputs[index])
        assert not torch.allclose(before, neck(changed)[0])


def _logits_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(3, 2, 9, 7, dtype=torch.float64)
    labels = torch.randint(0, 2, (3, 9, 7))
    return logits, labels


@pytest.mark.parametrize("batch", [False, True])
def test_ignored_pixels_change_neither_dice_nor_its_gradient(batch: bool):
    logits, labels = _logits_and_labels()
    ignored = torch.rand(labels.shape) < 0.3
    loss = registry.MaskedDiceLoss(batch=batch)
    values, gradients = [], []
    for noise in (0.0, 50.0):
        changed = (logits + noise * torch.randn_like(logits) * ignored[:, None]).requires_grad_()
        value = loss(changed, labels.masked_fill(ignored, 255))
        value.backward()
        values.append(value.detach())
        gradients.append(changed.grad)
    assert torch.equal(values[0], values[1])
    assert torch.equal(gradients[0], gradients[1])
    assert not gradients[0][ignored[:, None].expand_as(logits)].any()
    assert gradients[0].any()


def test_mmsegs_own_dice_does_let_ignored_pixels_in():
    """The reason for a Dice of our own: fails once mmseg masks them, and ours can go."""
    logits, labels = _logits_and_labels()
    labels[:, :3] = 255
    noisy = logits.clone()
    noisy[:, :, :3] += 50 * torch.randn_like(noisy[:, :, :3])
    loss = DiceLoss(use_sigmoid=False)
    assert not torch.isclose(loss(logits, labels), loss(noisy, labels))


def test_dice_by_hand():
    """One image of four pixels, crater probabilities 0.9, 0.9, 0.1, 0.1, truth 1, 0, 0 and one ignored."""
    crater = torch.tensor([0.9, 0.9, 0.1, 0.1])
    logits = torch.stack([(1 - crater).log(), crater.log()]).reshape(1, 2, 1, 4)
    labels = torch.tensor([1, 0, 0, 255]).reshape(1, 1, 4)
    background = 1 - (2 * (0.1 + 0.9) + 1) / (0.01 + 0.01 + 0.81 + 2 + 1)
    craters = 1 - (2 * 0.9 + 1) / (0.81 + 0.81 + 0.01 + 1 + 1)
    assert registry.MaskedDiceLoss()(logits, labels).item() == pytest.approx((background + craters) / 2, rel=1e-6)
    only = registry.MaskedDiceLoss(class_weight=[0.0, 1.0], loss_weight=3.0)(logits, labels)
    assert only.item() == pytest.approx(3 * craters, rel=1e-6)


def test_a_good_prediction_has_a_smaller_dice_than_a_bad_one_and_a_perfect_one_almost_none():
    _, labels = _logits_and_labels()
    perfect = 40.0 * (torch.nn.functional.one_hot(labels, 2).movedim(-1, 1) - 0.5)
    loss = registry.MaskedDiceLoss()
    assert loss(perfect, labels) < 1e-6
    assert loss(perfect, labels) < loss(0.01 * perfect, labels) < loss(-perfect, labels)


def test_a_crop_without_craters_costs_nothing_where_none_is_predicted():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0, :4] = 1
    logits = 40.0 * (torch.nn.functional.one_hot(labels, 2).movedim(-1, 1) - 0.5)
    assert registry.MaskedDiceLoss(class_weight=[0, 1], batch=True)(logits, labels) < 1e-6


def _craters_of(probability: torch.Tensor) -> torch.Tensor:
    """Logits (B, 2, H, W) of which the crater's softmax is ``probability`` (B, H, W)."""
    return torch.stack([(1 - probability).log(), probability.log()], dim=1)


def test_tversky_by_hand():
    """Truth 1, 0, 0 and one ignored: 0.8 found, 0.2 missed, 0.3 false."""
    logits = _craters_of(torch.tensor([[[0.8, 0.2, 0.1, 0.9]]]))
    labels = torch.tensor([[[1, 0, 0, 255]]])
    index = (0.8 + 1) / (0.8 + 0.3 * 0.3 + 0.7 * 0.2 + 1)
    assert registry.MaskedTverskyLoss()(logits, labels).item() == pytest.approx(1 - index, rel=1e-5)
    focal = registry.MaskedTverskyLoss(gamma=0.75)(logits, labels)
    assert focal.item() == pytest.approx((1 - index) ** 0.75, rel=1e-5)


def test_tversky_of_equal_weights_is_dice_with_plain_sums():
    logits, labels = _logits_and_labels()
    dice = registry.MaskedDiceLoss(class_weight=[0.0, 1.0], batch=True, smooth=2.0, exponent=1)
    tversky = registry.MaskedTverskyLoss(alpha=0.5, smooth=1.0)
    assert tversky(logits, labels).item() == pytest.approx(dice(logits, labels).item(), rel=1e-6)


def test_a_perfect_focal_tversky_has_a_finite_gradient():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :4] = 1
    logits = (400.0 * (torch.nn.functional.one_hot(labels, 2).movedim(-1, 1) - 0.5)).requires_grad_()
    registry.MaskedTverskyLoss(gamma=0.75)(logits, labels).backward()
    assert logits.grad.isfinite().all()


def test_focal_by_hand_and_without_focus_it_is_cross_entropy():
    probability = torch.rand(2, 5, 4, dtype=torch.float64) * 0.9 + 0.05
    labels = torch.randint(0, 2, (2, 5, 4))
    labels[0, :2] = 255
    logits, known = _craters_of(probability), labels != 255
    right = torch.where(labels == 1, probability, 1 - probability)[known]
    weights = torch.tensor([0.25, 0.75])[labels[known]]
    expected = (weights * -((1 - right) ** 2) * right.log()).mean()
    loss = registry.MaskedFocalLoss(class_weight=[0.25, 0.75])(logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    plain = torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=255)
    assert registry.MaskedFocalLoss(gamma=0.0)(logits, labels).item() == pytest.approx(plain.item(), rel=1e-5)


def test_mmsegs_own_focal_loss_is_wrong_on_a_cpu():
    """The reason for a focal loss of our own: fails once mmseg tells two classes apart on a CPU, and ours can go."""
    labels = torch.ones(1, 4, 4, dtype=torch.long)
    logits = _craters_of(torch.full((1, 4, 4), 0.999))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = MODELS.build({"type": "mmseg.FocalLoss"})
    try:
        right, wrong = loss(logits, labels), loss(-logits, labels)
    except (RuntimeError, AssertionError):
        return
    assert not right < wrong


def test_the_boundary_loss_sees_only_what_is_near_a_border():
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[:, :, 10:] = 1
    logits = torch.randn(1, 2, 20, 20)
    near = torch.zeros(20, dtype=torch.bool)
    near[8:12] = True
    loss = registry.CraterBoundaryLoss(width=2)
    expected = torch.nn.functional.cross_entropy(logits[..., near], labels[..., near])
    assert loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    far = logits.clone()
    far[..., ~near] += 5 * torch.randn_like(far[..., ~near])
    assert torch.equal(loss(far, labels), loss(logits, labels))
    assert loss(logits, torch.zeros_like(labels)) == 0


@pytest.mark.parametrize("loss", ["MaskedTverskyLoss", "MaskedFocalLoss", "CraterBoundaryLoss"])
def test_ignored_pixels_have_no_gradient(loss: str):
    logits, labels = _logits_and_labels()
    ignored = torch.rand(labels.shape) < 0.3
    logits.requires_grad_()
    MODELS.build({"type": loss})(logits, labels.masked_fill(ignored, 255)).backward()
    assert not logits.grad[ignored[:, None].expand_as(logits)].any()
    assert logits.grad.any()


def test_mmsegs_losses_can_be_named_beside_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert MODELS.build({"type": "FocalLoss"}) is not None
        assert isinstance(MODELS.build({"type": "MaskedDiceLoss"}), registry.MaskedDiceLoss)


def _results(shape: tuple[int, int] = (40, 30)) -> dict:
    mask = np.zeros(shape, np.uint8)
    mask[33:36, 5:8] = 1
    image = np.stack([mask * 10.0 + band for band in range(6)], axis=-1).astype(np.float32)
    return {"img": image, "gt_seg_map": mask, "img_shape": shape, "seg_fields": ["gt_seg_map"]}


def test_the_preprocessor_normalises_six_bands():
    mean, std = np.arange(6) * 10.0, np.arange(6) + 1.0
    preprocessor = registry.BandDataPreProcessor(mean=mean, std=std, size=(8, 8))
    chip = torch.randn(6, 8, 8) * 100
    out = preprocessor({"inputs": [chip], "data_samples": [SegDataSample()]}, training=False)["inputs"]
    expected = (chip.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(out[0].numpy(), expected, rtol=1e-5, atol=1e-5)
    assert not preprocessor.state_dict()  # the checkpoint does not carry what the config says


@pytest.mark.parametrize("jitter", [1.0, 2.0])
def test_image_and_mask_are_cropped_alike(jitter: float):
    crop = registry.CraterCrop(size=16, scale_jitter=jitter, crater_share=0.5)
    for _ in range(20):
        out = crop.transform(_results())
        assert out["gt_seg_map"].shape == out["img"].shape[:2] == out["img_shape"]
        if jitter == 1.0:
            assert out["gt_seg_map"].shape == (16, 16)
            np.testing.assert_array_equal(out["img"][..., 2], out["gt_seg_map"] * 10.0 + 2)
        else:
            # resampled values meet at edges only
            assert np.mean((out["img"][..., 0] > 5) == (out["gt_seg_map"] == 1)) > 0.9


def test_a_crop_at_half_scale_shows_twice_the_side():
    results = _results((64, 64))
    out = registry.CraterCrop(size=32, scale=0.5).transform(results)
    assert out["img"].shape == (32, 32, 6)
    np.testing.assert_allclose(out["img"].mean((0, 1)), results["img"].mean((0, 1)), rtol=1e-3)


def test_crater_crops_hold_a_crater_and_others_need_not():
    craters = [registry.CraterCrop(8, crater_share=1.0).transform(_results())["gt_seg_map"].any() for _ in range(40)]
    anywhere = [registry.CraterCrop(8, crater_share=0.0).transform(_results())["gt_seg_map"].any() for _ in range(40)]
    assert all(craters)
    assert not all(anywhere)


def test_other_light_changes_all_bands_alike_and_no_geometry():
    image = np.random.default_rng(0).random((30, 40, 6)).astype(np.float32) * np.arange(1, 7, dtype=np.float32)
    out = registry.RandomLight().transform({"img": image})["img"]
    assert out.dtype == np.float32
    correlation = [np.corrcoef(image[..., band].ravel(), out[..., band].ravel())[0, 1] for band in range(6)]
    assert min(correlation) > 0.98
    scaled = (out - image.mean((0, 1))) / image.std((0, 1))
    drift = scaled.mean((0, 1))
    np.testing.assert_allclose(drift, drift[0], atol=1e-4)
    assert not np.allclose(out, registry.RandomLight().transform({"img": image})["img"])


def test_small_craters_are_ignored_and_large_ones_kept():
    instances = np.zeros((30, 30), np.uint16)
    instances[2:5, 2:5], instances[10:20, 10:20] = 1, 2  # diameters 3.4 and 11.3
    mask = (instances > 0).astype(np.uint8)
    out = registry.without_small(mask, instances, 8.0)
    assert (out[2:5, 2:5] == 255).all()
    assert (out[10:20, 10:20] == 1).all()
    assert out.dtype == np.uint8
    assert (out == 0).sum() == (mask == 0).sum()
    np.testing.assert_array_equal(registry.without_small(mask, instances, 3.0), mask)


def test_an_image_smaller_than_the_crop_is_taken_whole():
    out = registry.CraterCrop(64).transform(_results())
    np.testing.assert_array_equal(out["img"], _results()["img"])


def test_quarter_turns_reach_all_eight_orientations():
    results = _results((6, 6))
    results["img"] = np.random.default_rng(0).random((6, 6, 6), np.float32)
    results["gt_seg_map"] = (results["img"][..., 0] > 0.5).astype(np.uint8)
    seen = set()
    for _ in range(100):
        out = registry.RandomQuarterTurn().transform(results)
        np.testing.assert_array_equal(out["img"][..., 0] > 0.5, out["gt_seg_map"] == 1)
        seen.add(out["img"].tobytes())
    assert len(seen) == 8


def test_a_mask_of_unknown_values_or_another_size_is_refused(tmp_path: Path):
    path = tmp_path / "mask.png"
    results = {"seg_map_path": str(path), "img_shape": (4, 5)}
    with pytest.raises(DamagedFileError, match="cannot be read"):
        registry.LoadMask().transform(results)
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(path)
    with pytest.raises(DamagedFileError, match=r"\[7\]"):
        registry.LoadMask().transform(results)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(path)
    with pytest.raises(DamagedFileError, match=r"\(5, 5\)"):
        registry.LoadMask().transform(results)
    Image.fromarray(np.array([[0, 1, 255, 0, 0]] * 4, np.uint8)).save(path)
    assert registry.LoadMask().transform(results)["gt_seg_map"].tolist() == [[0, 1, 255, 0, 0]] * 4


def test_miou_is_scikit_learns_over_all_pixels_of_all_images():
    rng = np.random.default_rng(1)
    metric = registry.CraterMetric()
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


def test_windows_cover_every_pixel_and_stay_inside():
    for length in range(32, 120, 7):
        starts = registry.window_starts(length, 32, 16)
        covered = {pixel for start in starts for pixel in range(start, start + 32)}
        assert covered == set(range(length))
    assert registry.window_starts(512, 224, 112) == [0, 112, 224, 288]


def _segmenter(kind: str, recipe: SegRecipe, micro: PrithviConfig, cpu: Compute) -> torch.nn.Module:
    config = mmseg_config(recipe, micro, cpu)
    config.model.type = kind
    if kind == "EncoderDecoder":
        for ours in ("scales", "orientations", "crater_prior", "crater_threshold"):
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


def test_inference_over_orientations_turns_with_the_image(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    recipe = micro_recipe.model_copy(update={"all_orientations": True})
    model = _segmenter("WindowedEncoderDecoder", recipe, micro, cpu)
    image = torch.randn(1, 6, 48, 48)
    with torch.inference_mode():
        turned = model.slide_inference(image.rot90(1, (2, 3)), [])
        expected = model.slide_inference(image, []).rot90(1, (2, 3))
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-4)


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
    model.init_weights()
    for head in (model.decode_head, model.auxiliary_head):
        assert head.conv_seg.bias.softmax(0)[1].item() == pytest.approx(0.02, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"neck": "pyramid"},
        {"neck": "deconvolution", "auxiliary_head": True},
        {"magnify": 2},
        {"architecture": "unet", "unet_channels": 2, "unet_stages": 3},
        {"loss": "focal_tversky", "boundary_weight": 1.0},
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


def test_a_magnified_encoder_sees_the_same_ground_in_more_patches(micro: PrithviConfig):
    backbone = registry.PrithviBackbone(micro.to_dict(), [3], magnify=2).eval()
    plain = registry.PrithviBackbone(micro.to_dict(), [3]).eval()
    plain.load_state_dict(backbone.state_dict())
    image = torch.randn(1, 6, 32, 32)
    (larger,), (usual,) = backbone(image), plain(image)
    assert larger.shape[2:] == (2 * usual.shape[2], 2 * usual.shape[3])
    doubled = torch.nn.functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(larger, plain(doubled)[0])


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


def test_a_frozen_encoder_takes_no_gradient(micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    config = mmseg_config(micro_recipe.model_copy(update={"frozen": True}), micro, cpu)
    model = MODELS.build(config.model)
    trained = {
        id(p) for g in build_optim_wrapper(model, config.optim_wrapper).optimizer.param_groups for p in g["params"]
    }
    assert not any(id(p) in trained or p.requires_grad for p in model.backbone.parameters())
    assert trained


@pytest.mark.parametrize("schedule", ["constant", "poly", "cosine"])
def test_the_schedule_is_mmcvs(schedule: str, micro_recipe: SegRecipe, micro: PrithviConfig, cpu: Compute):
    """mmcv 0.x, which the paper used: the regular rate times the warm-up's share of it, k / warm-up."""
    recipe = micro_recipe.model_copy(update={"schedule": schedule, "iterations": 20, "warmup_iterations": 5, "lr": 1.0})
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
