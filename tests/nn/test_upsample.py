"""Upsamplers: which channel becomes which pixel, how large the image gets, and which scales there are."""

import pytest
import torch

from ommatid.nn.image_range import ImageRange
from ommatid.nn.upsample import PixelShuffle, Reconstruction, pixel_shuffle_direct, shuffle_factors


@pytest.mark.parametrize("factor", [2, 3])
def test_channels_become_the_pixels_of_a_square_row_by_row(factor: int) -> None:
    features = torch.randn(2, 4, 5, 3 * factor**2)
    pixels = PixelShuffle(factor)(features)
    assert pixels.shape == (2, 4 * factor, 5 * factor, 3)
    for channel in range(3):
        for row in range(factor):
            for column in range(factor):
                source = features[..., channel * factor**2 + row * factor + column]
                assert torch.equal(pixels[:, row::factor, column::factor, channel], source)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_images_are_as_large_as_the_scale_says(scale: int) -> None:
    features = torch.randn(1, 3, 5, 6)
    assert Reconstruction(6, 3, scale)(features).shape == (1, 3 * scale, 5 * scale, 3)
    assert pixel_shuffle_direct(6, 3, scale)(features).shape == (1, 3 * scale, 5 * scale, 3)


@pytest.mark.parametrize("scale", [-2, 0, 5, 6])
def test_other_scales_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=f"scale = {scale} is not possible: allowed is"):
        shuffle_factors(scale)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_range_of_an_image_is_undone(channels: int) -> None:
    image = torch.rand(2, channels, 4, 5)
    values = ImageRange(channels, 255.0)
    features = values.to_map(image)
    assert features.shape == (2, 4, 5, channels)
    assert features.is_contiguous()
    torch.testing.assert_close(values.to_image(features), image)


def test_the_average_colour_is_the_middle_of_the_range() -> None:
    grey = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    assert ImageRange(3, 255.0).to_map(grey).abs().max() < 1e-6
    assert ImageRange(1, 2.0).to_map(torch.ones(1, 1, 1, 1)).item() == 2
