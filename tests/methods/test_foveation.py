"""Foveated images: what stays the same, what must sum to 1, and the whole transform."""

from __future__ import annotations

import pytest
import torch

from ommatid.methods.foveation import ImageCodec, coral, foveated_blur, foveated_texture, region_masks, textured_image
from ommatid.ops.gaussian_blur import gaussian_blur
from ommatid.ops.log_polar import LogPolar, pooled, rings_and_angles

PLACE = LogPolar(fixation=(9.3, 14.0), rings=3, angles=7, inner_radius=2.5, outer_radius=12.0)
SIZE = (21, 30)


def test_windows_sum_to_1_between_the_first_ring_and_the_last() -> None:
    rows, columns = torch.meshgrid(torch.arange(21) - 9.3, torch.arange(30) - 14.0, indexing="ij")
    distance = torch.hypot(rows, columns)
    total = PLACE.windows(SIZE).sum(0)
    inside = (distance >= PLACE.centre(0)) & (distance <= PLACE.outer_radius)
    torch.testing.assert_close(total[inside], torch.ones(int(inside.sum())))
    torch.testing.assert_close((total + PLACE.fovea(SIZE))[distance < 2.5], torch.ones(int((distance < 2.5).sum())))
    assert rings_and_angles(0.4, 24, 224) == (6, 31)


def test_windows_turn_counter_clockwise_from_the_right() -> None:
    quarters = LogPolar(fixation=(20.0, 20.0), rings=1, angles=8, inner_radius=2.0, outer_radius=10.0)
    sectors = quarters.sector_weights((41, 41))
    # The middle of sector a is 45 a + 11.25 degrees: up, a step to the left, is that of sector 2.
    assert sectors[:, 10, 18].argmax() == 2
    assert sectors[:, 22, 10].argmax() == 4


def test_blurs_leave_even_images_and_the_fovea() -> None:
    even = torch.full((2, 3, *SIZE), 0.7)
    torch.testing.assert_close(gaussian_blur(even, 2.0), even)
    torch.testing.assert_close(foveated_blur(even, PLACE, 0.3).blurred, even)
    image = torch.rand(2, 3, *SIZE)
    blurred, weights, _ = foveated_blur(image, PLACE, 0.3)
    torch.testing.assert_close(weights.sum(0), torch.ones(SIZE))
    sharp = weights[0] == 1
    assert sharp.any()
    assert torch.equal(blurred[..., sharp], image[..., sharp])
    torch.testing.assert_close(foveated_blur(image, PLACE, 1e-6).blurred, image)


def test_a_blur_wider_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image size = \(9, 30\).*allowed is more than 9 a side"):
        gaussian_blur(torch.rand(1, 1, 9, 30), 3.0)
    with pytest.raises(ValueError, match=r"rate = 0.0.*allowed is a positive number"):
        foveated_blur(torch.rand(1, 1, *SIZE), PLACE, 0.0)


def test_pooling_an_even_image_gives_its_value() -> None:
    torch.testing.assert_close(pooled(torch.full((1, 2, *SIZE), 3.0), PLACE.windows(SIZE)), torch.full((1, 2, 21), 3.0))


def test_texture_is_what_writing_region_after_region_gives() -> None:
    content, noise = torch.randn(2, 4, *SIZE), torch.randn(2, 4, *SIZE)
    masks = torch.cat([region_masks(PLACE, SIZE), torch.zeros(1, *SIZE, dtype=torch.bool)])
    masks[-1, 0, 0] = True  # a single position: left out
    alphas = torch.rand(len(masks))
    expected = torch.zeros_like(content)
    for mask, alpha in zip(masks[:-1], alphas, strict=False):
        here, there = content[..., mask], noise[..., mask]
        deviations = [(part.var(-1, keepdim=True) + 1e-5).sqrt() for part in (here, there)]
        texture = (there - there.mean(-1, keepdim=True)) / deviations[1] * deviations[0] + here.mean(-1, keepdim=True)
        expected[..., mask] = (1 - alpha) * here + alpha * texture
    features, covered = foveated_texture(content, noise, masks, alphas)
    torch.testing.assert_close(features, expected)
    assert torch.equal(covered, masks[:-1].any(0))
    torch.testing.assert_close(foveated_texture(content, content, masks, alphas).features, content * covered)


def test_colours_of_an_image_put_on_itself_change_nothing() -> None:
    image, other = torch.rand(3, 8, 9), 2 * torch.rand(3, 20, 5) + 1
    torch.testing.assert_close(coral(image, image), image)
    torch.testing.assert_close(coral(image, other).mean((1, 2)), other.mean((1, 2)))


def test_the_whole_transform_makes_an_image() -> None:
    torch.manual_seed(0)
    codec = ImageCodec().eval()
    place = LogPolar(fixation=(31.5, 31.5), rings=3, angles=6, inner_radius=6.0, outer_radius=40.0)
    with torch.no_grad():
        answer = textured_image(codec, torch.rand(1, 3, 50, 40), torch.randn(3, 64, 64), place, size=32)
        assert codec(torch.rand(1, 3, 32, 40)).shape == (1, 3, 32, 40)
    assert answer.shape == (1, 3, 32, 32)
    assert answer.isfinite().all()
