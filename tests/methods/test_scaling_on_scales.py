import pytest
import torch

import ommatid
from ommatid.methods.scaling_on_scales import multiscale_features
from ommatid.ops.chessboard import merge_squares, split_squares


def vit():
    torch.manual_seed(0)
    return ommatid.create_model("vit", image_size=24, patch_size=8, dim=16, depth=1, heads=2).eval()


def test_first_channels_are_those_of_the_model_alone():
    model, image = vit(), torch.randn(2, 3, 24, 24)
    expected = model.tokens(image)
    torch.testing.assert_close(multiscale_features(model.tokens, image, [24], prefix_tokens=1), expected)
    features = multiscale_features(model.tokens, image, [24, 48], prefix_tokens=1)
    assert features.shape == (2, 10, 32)
    torch.testing.assert_close(features[..., :16], expected)


def test_tiles_one_by_one_answer_the_same():
    model, image = vit(), torch.randn(2, 3, 48, 48)
    settings = {"sizes": [24, 48, 72], "tile_size": 24, "output": 1, "prefix_tokens": 1}
    torch.testing.assert_close(
        multiscale_features(model.tokens, image, one_by_one=True, **settings),
        multiscale_features(model.tokens, image, **settings),
    )


def test_constant_maps_stay_constant():
    def model(tiles):
        return torch.ones(len(tiles), 4, 3, 3) * torch.arange(4.0).view(4, 1, 1)

    features = multiscale_features(model, torch.randn(2, 3, 20, 20), [10, 20, 30], tile_size=10, output=2)
    torch.testing.assert_close(features, torch.arange(4.0).repeat(3).view(1, 12, 1, 1).expand(2, 12, 9, 9))


@pytest.mark.parametrize("splits", [1, 2, 3])
def test_merging_undoes_splitting(splits):
    image = torch.randn(2, 3, 6, 12)
    assert torch.equal(merge_squares(split_squares(image, splits), splits), image)


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((24, 16), {"sizes": [24]}),
        ((24, 24), {"sizes": [49], "tile_size": 24}),
        ((24, 24), {"sizes": [24], "output": 1}),
        ((24, 24), {"sizes": [24], "prefix_tokens": 2}),
    ],
)
def test_refuses_what_does_not_fit(size, settings):
    with pytest.raises(ValueError, match="allowed"):
        multiscale_features(vit().tokens, torch.randn(1, 3, *size), **settings)


def test_refuses_prefix_tokens_of_maps():
    with pytest.raises(ValueError, match="allowed"):
        multiscale_features(lambda tiles: tiles, torch.randn(1, 3, 8, 8), [8], prefix_tokens=1)
