"""EVA's options that no reference case shows, and what its pre-training must not see."""

from __future__ import annotations

import random

import pytest
import torch

import ommatid
from ommatid.methods.pretraining.eva import MaskedFeatureRegression, feature_loss
from ommatid.methods.pretraining.masking import block_mask

SIZES = {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "num_classes": 5}


@pytest.mark.parametrize(
    "options",
    [
        {"norm_order": "post"},
        {"norm_order": "deep", "mlp": "gelu", "sub_norm": True},
        {"relative_position": "shared", "rope": False, "absolute_position": False, "layer_scale": 0.1},
        {"relative_position": "per_block", "qkv_bias": False, "mean_pooling": False},
        {"rope_grid": 2, "mlp": "swiglu", "sub_norm": True},
    ],
    ids=str,
)
def test_every_option_trains_all_its_parameters(options: dict) -> None:
    model = ommatid.create_model("eva", **SIZES, **options)
    model(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_positions_of_one_grid_refuse_another() -> None:
    model = ommatid.create_model("eva", **SIZES, rope_interpolate=False)
    with pytest.raises(ValueError, match="grid of patches"):
        model(torch.rand(1, 3, 40, 32))
    with pytest.raises(ValueError, match="rope_grid"):
        ommatid.create_model("eva", **SIZES, rope_interpolate=False, rope_grid=3)


def test_scaled_positions_of_the_same_grid_are_those_that_are_not_scaled() -> None:
    scaled = ommatid.create_model("eva", **SIZES, rope_grid=4).eval()
    fixed = ommatid.create_model("eva", **SIZES, rope_grid=4, rope_interpolate=False).eval()
    fixed.load_state_dict(scaled.state_dict())
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(scaled(image), fixed(image))


def test_predicted_features_depend_on_visible_pixels_only() -> None:
    network = ommatid.create_model("eva", **SIZES | {"num_classes": 0}, mean_pooling=False)
    learner = MaskedFeatureRegression(network, 7).eval()
    hidden = torch.zeros(1, 4, 4, dtype=torch.bool)
    hidden[:, 1:3, 2] = True
    image = torch.rand(1, 3, 32, 32)
    changed = image.clone()
    changed[:, :, 8:24, 16:24] = 0
    assert torch.equal(learner(image, hidden), learner(changed, hidden))
    assert learner(image, hidden).shape == (2, 7)


def test_agreeing_features_lose_minus_one() -> None:
    features = torch.randn(5, 7)
    torch.testing.assert_close(feature_loss(3 * features, features), torch.tensor(-1.0))


def test_block_masks_hide_rectangles_and_never_too_much() -> None:
    counts = [int(block_mask((16, 16), 105, generator=random.Random(seed)).sum()) for seed in range(20)]
    assert max(counts) <= 105
    assert sum(counts) > 20 * 80
    with pytest.raises(ValueError, match="count"):
        block_mask((4, 4), 17)
