"""The autoencoder against TerraTorch's numbers, and against plain numpy where the method is short to write out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mars_assets.errors import MarsError
from mars_assets.prithvi.config import VARIANTS, PrithviConfig
from mars_assets.prithvi.model import PrithviEncoder, PrithviMAE, patchify, position_table, unpatchify


def small(**changes: object) -> PrithviConfig:
    """The architecture of the numerical reference."""
    values: dict = {"img_size": 64, "embed_dim": 96, "depth": 3, "num_heads": 3} | {
        "decoder_embed_dim": 64, "decoder_depth": 2, "decoder_num_heads": 4, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    return PrithviConfig("reference", **(values | changes))


@pytest.fixture(scope="module")
def mae() -> PrithviMAE:
    torch.manual_seed(0)
    return PrithviMAE(small()).eval()


@pytest.fixture(scope="module")
def reference(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "parity" / "reference.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module", params=[1, 3], ids=["built for 1 frame", "built for 3 frames"])
def published(shared: Path, request: pytest.FixtureRequest) -> dict[float, PrithviMAE]:
    """The reference's weights, by layer norm eps."""
    state = torch.load(shared / "parity" / "mae_prefixed_3frames.pt", weights_only=True)
    models = {}
    for eps in (1e-5, 1e-6):
        model = PrithviMAE(small(num_frames=request.param, layer_norm_eps=eps)).eval()
        own = model.state_dict()
        weights = {key: own[key] if "pos_embed" in key else value for key, value in state.items()}
        model.load_state_dict(weights, strict=True)
        models[eps] = model
    return models


class TestParity:
    """Numbers made with TerraTorch 1.2.11's own implementation, see ``parity/meta.json``."""

    @pytest.mark.parametrize(("eps", "suffix"), [(1e-5, ""), (1e-6, "_eps1e-6")])
    def test_encoder_and_loss(
        self, published: dict[float, PrithviMAE], reference: dict[str, Tensor], eps: float, suffix: str
    ) -> None:
        with torch.no_grad():
            tokens = published[eps].encoder(reference["input"]).tokens
            loss = published[eps](reference["input"], 0.5, reference["noise"]).loss
        torch.testing.assert_close(tokens, reference[f"tokens{suffix}"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loss, reference[f"loss{suffix}"], rtol=1e-4, atol=1e-4)

    def test_masked_autoencoding(self, published: dict[float, PrithviMAE], reference: dict[str, Tensor]) -> None:
        model = published[1e-5]
        with torch.no_grad():
            encoded = model.encoder(reference["input"], 0.5, reference["noise"])
            pred = model(reference["input"], 0.5, reference["noise"]).pred
        assert torch.equal(encoded.mask, reference["mask"])
        assert torch.equal(encoded.ids_restore, reference["ids_restore"])
        torch.testing.assert_close(encoded.tokens, reference["latent"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(pred, reference["pred_tokens"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.unpatchify(pred, (1, 4, 4)), reference["pred"], rtol=1e-4, atol=1e-4)
        assert torch.equal(model.patchify(reference["input"]), reference["target_tokens"])

    def test_another_image_size_not_square(
        self, published: dict[float, PrithviMAE], reference: dict[str, Tensor]
    ) -> None:
        with torch.no_grad():
            tokens = published[1e-5].encoder(reference["interp_input"]).tokens
        torch.testing.assert_close(tokens, reference["interp_tokens"], rtol=1e-4, atol=1e-4)

    def test_position_tables(self, shared: Path) -> None:
        state = torch.load(shared / "parity" / "mae_flat_3frames.pt", weights_only=True)
        torch.testing.assert_close(position_table(96, (3, 4, 4)), state["pos_embed"], rtol=0, atol=1e-6)
        torch.testing.assert_close(position_table(64, (3, 4, 4)), state["decoder_pos_embed"], rtol=0, atol=1e-6)


class TestPublishedVariants:
    @pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.repository])
    def test_keys_shapes_and_parameters(self, shared: Path, name: str) -> None:
        manifests = shared / "parity" / "manifests"
        manifest = json.loads((manifests / f"prithvi_eo_{name}.json").read_text())
        with torch.device("meta"):
            model = PrithviMAE(VARIANTS[name].config)
        own = {key: list(value.shape) for key, value in model.state_dict().items()}
        scales = {key for key in manifest if key.endswith(".scale")}
        assert len(scales) == (4 if name.endswith("_tl") else 0)
        assert own == {key: shape for key, shape in manifest.items() if key not in scales}
        counts = json.loads((manifests / "_index.json").read_text())[f"prithvi_eo_{name}"]
        assert sum(p.numel() for p in model.parameters()) == counts["params_mae"] - len(scales)
        assert sum(p.numel() for p in model.encoder.parameters()) == counts["params_encoder"] - len(scales) // 2

    def test_v1_100_has_the_published_size(self) -> None:
        with torch.device("meta"):
            model = PrithviMAE(VARIANTS["v1_100"].config)
        assert sum(p.numel() for p in model.parameters()) == 112_639_488


class TestPatches:
    @pytest.mark.parametrize("patch", [(1, 16, 16), (2, 4, 8)])
    def test_order_is_the_papers(self, patch: tuple[int, int, int]) -> None:
        x = torch.randn(2, 6, 4, 32, 48)
        s, p, q = patch
        t, h, w = 4 // s, 32 // p, 48 // q
        expected = np.empty((2, t * h * w, s * p * q * 6), np.float32)
        for row in range(t * h * w):  # b c (t s) (h p) (w q) -> b (t h w) (s p q c)
            i, j, k = row // (h * w), row // w % h, row % w
            block = x.numpy()[:, :, i * s : (i + 1) * s, j * p : (j + 1) * p, k * q : (k + 1) * q]
            expected[:, row] = block.transpose(0, 2, 3, 4, 1).reshape(2, -1)
        patches = patchify(x, patch)
        np.testing.assert_array_equal(patches.numpy(), expected)
        assert torch.equal(unpatchify(patches, patch, (t, h, w)), x)

    def test_embedding_is_the_published_convolution(self, mae: PrithviMAE) -> None:
        x = torch.randn(2, 6, 2, 32, 64)
        embed = mae.encoder.patch_embed
        patches = patchify(x, mae.config.patch_size)
        torch.testing.assert_close(embed(patches), embed.proj(x).flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


class TestMasking:
    @pytest.mark.parametrize("ratio", [0.0, 0.25, 0.375, 0.5, 0.75, 0.99])
    def test_smallest_noise_is_kept(self, mae: PrithviMAE, ratio: float) -> None:
        rng = np.random.default_rng(int(ratio * 100))
        noise = rng.random((2, 24), dtype=np.float32)
        encoded = mae.encoder(torch.randn(2, 6, 64, 96), ratio, torch.from_numpy(noise))
        keep = int(24 * (1 - ratio))
        rank = noise.argsort(axis=1).argsort(axis=1)
        np.testing.assert_array_equal(encoded.mask.numpy(), (rank >= keep).astype(np.float32))
        np.testing.assert_array_equal(encoded.ids_restore.numpy(), rank)
        assert encoded.tokens.shape == (2, 1 + keep, 96)

    def test_removed_patches_do_not_matter(self, mae: PrithviMAE) -> None:
        x, noise = torch.randn(1, 6, 64, 64), torch.rand(1, 16)
        before = mae.encoder(x, 0.5, noise)
        patches = mae.patchify(x)
        patches = torch.where(before.mask.bool()[..., None], torch.randn_like(patches), patches)
        other = mae.unpatchify(patches, (1, 4, 4))
        assert not torch.equal(other[:, :, 0], x)
        assert torch.equal(mae.encoder(other, 0.5, noise).tokens, before.tokens)

    def test_ratio_zero_removes_nothing_and_keeps_the_order(self, mae: PrithviMAE) -> None:
        x, noise = torch.randn(2, 6, 64, 64), torch.rand(2, 16)
        plain, shuffled = mae.encoder(x), mae.encoder(x, 0.0, noise)
        assert plain.mask.sum() == shuffled.mask.sum() == 0
        assert torch.equal(plain.ids_restore, torch.arange(16).expand(2, -1))
        order = shuffled.ids_restore[..., None].expand(-1, -1, 96)
        torch.testing.assert_close(shuffled.tokens[:, 1:].gather(1, order), plain.tokens[:, 1:], rtol=1e-4, atol=1e-4)
        feature = mae.encoder.features(x)[0]
        torch.testing.assert_close(feature.flatten(2).transpose(1, 2), plain.tokens[:, 1:])

    def test_autoencoder_at_ratio_zero_does_not_fall_back_to_the_default(self, mae: PrithviMAE) -> None:
        assert mae(torch.randn(1, 6, 64, 64), mask_ratio=0).mask.sum() == 0
        assert mae(torch.randn(1, 6, 64, 64)).mask.sum() == 12  # 0.75 of 16

    def test_masks_differ_between_draws_and_images(self, mae: PrithviMAE) -> None:
        x = torch.randn(1, 6, 128, 128).expand(2, -1, -1, -1)
        first, second = mae.encoder(x, 0.5).mask, mae.encoder(x, 0.5).mask
        assert not torch.equal(first, second)
        assert not torch.equal(first[0], first[1])

    @pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5])
    def test_ratio_out_of_range(self, mae: PrithviMAE, ratio: float) -> None:
        with pytest.raises(MarsError, match="mask_ratio"):
            mae.encoder(torch.randn(1, 6, 64, 64), ratio)

    def test_noise_of_another_shape(self, mae: PrithviMAE) -> None:
        with pytest.raises(MarsError, match=r"\(1, 16\).*\(1, 12\)"):
            mae.encoder(torch.randn(1, 6, 64, 64), 0.5, torch.rand(1, 12))


class TestLoss:
    @pytest.mark.parametrize("norm_pix", [False, True])
    def test_mean_over_removed_patches(self, norm_pix: bool) -> None:
        model = PrithviMAE(small(norm_pix_loss=norm_pix))
        x, pred = torch.randn(2, 6, 64, 64) * 3 + 1, torch.randn(2, 16, 1536)
        mask = (torch.rand(2, 16) < 0.6).float()
        target = model.patchify(x).numpy().astype(np.float64)
        if norm_pix:
            target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
        error = ((pred.numpy() - target) ** 2).mean(-1)
        assert model.loss(x, pred, mask).item() == pytest.approx(error[mask.numpy() == 1].mean(), rel=1e-5)

    def test_kept_patches_do_not_count(self, mae: PrithviMAE) -> None:
        x, pred = torch.randn(1, 6, 64, 64), torch.randn(1, 16, 1536)
        mask = torch.zeros(1, 16)
        mask[0, 3] = 1
        changed = pred.clone()
        changed[0, torch.arange(16) != 3] += 10
        assert mae.loss(x, pred, mask) == mae.loss(x, changed, mask)

    def test_nothing_removed_is_not_a_number(self, mae: PrithviMAE) -> None:
        assert mae(torch.randn(1, 6, 64, 64), 0.0).loss.isnan()


class TestInput:
    @pytest.mark.parametrize("size", [(1, 64, 64), (1, 32, 160), (1, 96, 48), (3, 64, 64), (2, 32, 48)])
    def test_any_size_that_the_patch_divides(self, mae: PrithviMAE, size: tuple[int, int, int]) -> None:
        t, h, w = size
        length = t * h // 16 * w // 16
        result = mae(torch.randn(2, 6, *size), 0.5)
        assert result.pred.shape == (2, length, 1536)
        assert result.mask.sum() == 2 * (length - length // 2)
        assert result.loss.isfinite()
        maps = mae.encoder.features(torch.randn(2, 6, *size), [0, -1])
        assert [tuple(m.shape) for m in maps] == [(2, t * 96, h // 16, w // 16)] * 2

    def test_frames_may_be_left_out(self, mae: PrithviMAE) -> None:
        x = torch.randn(1, 6, 64, 64)
        assert torch.equal(mae.encoder(x).tokens, mae.encoder(x[:, :, None]).tokens)

    @pytest.mark.parametrize(
        ("size", "advice"),
        [
            ((1, 64, 70), "pad it to 1 x 64 x 80"),
            ((1, 227, 227), "pad it to 1 x 240 x 240"),
            ((1, 8, 8), "1 x 16 x 16"),
        ],
    )
    def test_other_sizes_name_the_size_to_pad_to(
        self, mae: PrithviMAE, size: tuple[int, int, int], advice: str
    ) -> None:
        for call in (mae, mae.encoder, mae.encoder.features):
            with pytest.raises(MarsError, match=advice):
                call(torch.randn(1, 6, *size))

    @pytest.mark.parametrize("shape", [(1, 3, 64, 64), (6, 64, 64)])
    def test_other_channels_name_the_bands(self, mae: PrithviMAE, shape: tuple[int, ...]) -> None:
        with pytest.raises(MarsError, match="BLUE, GREEN, RED, NIR_NARROW, SWIR_1, SWIR_2"):
            mae(torch.randn(shape))

    def test_layers_that_are_not_there(self, mae: PrithviMAE) -> None:
        with pytest.raises(MarsError, match=r"\[3\].*3 blocks"):
            mae.encoder.features(torch.randn(1, 6, 64, 64), [0, 3])


class TestFeatures:
    def test_maps_are_oriented_as_the_image(self, mae: PrithviMAE) -> None:
        x = torch.randn(1, 6, 64, 96)
        changed = x.clone()
        changed[..., 16:32, 64:80] += 5  # patch row 1, column 4
        # Before any attention the patch's own token is what changes most.
        difference = (mae.encoder.features(x, [0])[0] - mae.encoder.features(changed, [0])[0]).abs().sum(1)[0]
        assert divmod(int(difference.argmax()), 6) == (1, 4)

    def test_norm_is_applied_to_the_last_only(self, mae: PrithviMAE) -> None:
        first, last = mae.encoder.features(torch.randn(2, 6, 64, 64), [0, 2])
        assert last.mean(1).abs().max() < 1e-5
        assert last.std(1, correction=0).sub(1).abs().max() < 1e-3
        assert first.mean(1).abs().max() > 1e-3

    def test_layers_come_as_asked(self, mae: PrithviMAE) -> None:
        x = torch.randn(1, 6, 64, 64)
        a, b, c = mae.encoder.features(x, [2, 0, -1])
        assert torch.equal(a, c)
        assert torch.equal(a, mae.encoder.features(x)[0])
        assert not torch.equal(a, b)


class TestTraining:
    def test_gradients_reach_every_parameter(self) -> None:
        model = PrithviMAE(small())
        model(torch.randn(2, 6, 64, 64), 0.5).loss.backward()
        lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert lacking == []

    def test_positions_are_neither_trained_nor_lost(self) -> None:
        model = PrithviMAE(small())
        assert not any("pos" in name for name, _ in model.named_parameters())
        assert {"encoder.pos_embed", "decoder.decoder_pos_embed"} <= set(model.state_dict())

    def test_a_table_first_made_in_inference_mode_can_be_trained_with(self) -> None:
        model = PrithviMAE(small())
        with torch.inference_mode():
            model(torch.randn(1, 6, 32, 32), 0.5)
        model(torch.randn(1, 6, 32, 32), 0.5).loss.backward()
        assert not model.encoder.positions.at((1, 2, 2), torch.device("cpu")).is_inference()

    def test_a_few_steps_lower_the_loss(self) -> None:
        torch.manual_seed(1)
        model = PrithviMAE(small(depth=1, decoder_depth=1))
        y, x = torch.meshgrid(torch.linspace(0, 6, 64), torch.linspace(0, 6, 64), indexing="ij")
        images = torch.stack([(x * (1 + i / 4) + y).sin() for i in range(4)])[:, None].expand(-1, 6, -1, -1)
        noise = torch.rand(4, 16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(40):
            loss = model(images, 0.5, noise).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_bf16_is_close_to_fp32(self, mae: PrithviMAE) -> None:
        x, noise = torch.randn(1, 6, 64, 64), torch.rand(1, 16)
        with torch.no_grad():
            exact = mae(x, 0.5, noise)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                rough = mae(x, 0.5, noise)
        assert rough.loss.dtype == torch.float32
        assert rough.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)

    def test_gradient_in_bf16_is_close_to_that_in_fp32(self, mae: PrithviMAE) -> None:
        x, noise = torch.randn(2, 6, 64, 64), torch.rand(2, 16)
        gradients = []
        for bf16 in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = mae(x, 0.5, noise).loss
            parameters = [parameter for parameter in mae.parameters() if parameter.requires_grad]
            gradients.append(torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)]))
        exact, rough = gradients
        assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > 0.999

    @pytest.mark.slow
    def test_encoder_traces_as_one_graph(self) -> None:
        encoder = PrithviEncoder(small(depth=1)).eval()
        x = torch.randn(1, 6, 64, 64)
        compiled = torch.compile(encoder, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x).tokens, encoder(x).tokens)
