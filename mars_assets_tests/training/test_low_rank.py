"""Low-rank adaptation of encoders."""

import copy

import pytest
import torch
from torch import nn

from mars_assets.encoders.registry import ENCODERS
from mars_assets.encoders.weights import new_encoder
from mars_assets.errors import MarsError
from mars_assets.training.low_rank import ALPHA, LowRankLinear, adapt, merged

pytestmark = pytest.mark.slow


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    return new_encoder(ENCODERS["galileo_nano"].config).eval()


@pytest.fixture
def chips() -> torch.Tensor:
    return torch.randn(2, 6, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    # Per block: qkv has 3 D x D and proj D x D, so r times 4 D and 2 D.
    [
        ("galileo_nano", 4, 4 * 4 * 6 * 128),
        ("sample", 8, 12 * 8 * 6 * 192),
        ("vit_tiny_patch16_224.augreg_in21k", 8, 12 * 8 * 6 * 192),
    ],
)
def test_only_attention_learns(name: str, rank: int, expected: int):
    encoder = new_encoder(ENCODERS[name].config)
    adapt(encoder, rank)
    trained = {key: value for key, value in encoder.named_parameters() if value.requires_grad}
    assert sum(value.numel() for value in trained.values()) == expected
    assert all(key.endswith((".down", ".up")) and ".attn." in key for key in trained)


def test_it_starts_unchanged_and_merges_exactly(encoder: nn.Module, chips: torch.Tensor):
    plain, before = copy.deepcopy(encoder), encoder(chips).tokens
    adapt(encoder, 4)
    torch.testing.assert_close(encoder(chips).tokens, before)
    for name, values in encoder.named_parameters():
        if name.endswith(".up"):
            nn.init.normal_(values, std=0.02)
    after = encoder(chips).tokens
    assert (after - before).abs().max() > 1e-2
    plain.load_state_dict(merged(encoder.state_dict()), strict=True)
    torch.testing.assert_close(plain(chips).tokens, after, atol=1e-5, rtol=1e-5)


def test_a_layer_adds_the_product_of_two_matrices():
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    layer = LowRankLinear(linear, 2)
    nn.init.normal_(layer.up)
    x = torch.randn(3, 6)
    expected = x @ (linear.weight + ALPHA / 2 * layer.up @ layer.down).T + linear.bias
    torch.testing.assert_close(layer(x), expected)


def test_gradients_reach_all_that_learns_and_nothing_else(encoder: nn.Module, chips: torch.Tensor):
    adapt(encoder, 4)
    encoder.train()
    for values in encoder.parameters():
        if values.requires_grad:
            nn.init.normal_(values, std=0.02)
    encoder(chips).tokens.square().mean().backward()
    for name, values in encoder.named_parameters():
        assert (values.grad is not None) == values.requires_grad, name


@pytest.mark.parametrize(
    ("name", "rank", "message"), [("resnet18.a1_in1k", 8, "no attention"), ("galileo_nano", 128, "not below the width")]
)
def test_what_cannot_be_adapted_is_refused(name: str, rank: int, message: str):
    with pytest.raises(MarsError, match=message):
        adapt(new_encoder(ENCODERS[name].config, meta=True), rank)
