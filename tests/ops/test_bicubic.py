from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ommatid.ops.bicubic import enlarge_bicubic, shrink_bicubic

# The weights that MATLAB's imresize gives each pixel at these factors.
SHRINK_BY_2 = [-3 / 256, -9 / 256, 29 / 256, 111 / 256, 111 / 256, 29 / 256, -9 / 256, -3 / 256]
ENLARGE_BY_2 = [[-3 / 128, 29 / 128, 111 / 128, -9 / 128], [-9 / 128, 111 / 128, 29 / 128, -3 / 128]]


def keys(distance: float) -> float:
    """The cubic kernel with a = -0.5."""
    at = abs(distance)
    if at <= 1:
        return 1.5 * at**3 - 2.5 * at**2 + 1
    return -0.5 * at**3 + 2.5 * at**2 - 4 * at + 2 if at <= 2 else 0.0


def imresize_line(line: list[float], scale: float) -> list[float]:
    """MATLAB's imresize of one line, in the words of its documentation: counted from 1, antialiased, mirrored."""
    kernel_scale = min(scale, 1.0)
    resized = []
    for place in range(1, math.ceil(len(line) * scale) + 1):
        centre = place / scale + 0.5 * (1 - 1 / scale)
        first = math.floor(centre - 2 / kernel_scale)
        total, weights = 0.0, 0.0
        for tap in range(first, first + math.ceil(4 / kernel_scale) + 2):
            weight = keys(kernel_scale * (centre - tap))
            mirrored = (tap - 1) % (2 * len(line))
            total += weight * line[mirrored if mirrored < len(line) else 2 * len(line) - 1 - mirrored]
            weights += weight
        resized.append(total / weights)
    return resized


def imresize(image: Tensor, scale: float) -> Tensor:
    """(C, H, W), by plain loops."""
    for _ in range(2):  # along the width, and with the axes exchanged along the height
        lines = [[imresize_line(line.tolist(), scale) for line in channel] for channel in image]
        image = torch.tensor(lines, dtype=image.dtype).mT
    return image


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("size", [(12, 24), (13, 7), (5, 2), (1, 1)])
def test_equals_matlabs_definition(factor: int, size: tuple[int, int]) -> None:
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(factor), dtype=torch.float64)
    shrunk, enlarged = imresize(image, 1 / factor), imresize(image, factor)
    torch.testing.assert_close(shrink_bicubic(image, factor), shrunk, rtol=0, atol=1e-12)
    torch.testing.assert_close(enlarge_bicubic(image, factor), enlarged, rtol=0, atol=1e-12)
    torch.testing.assert_close(shrink_bicubic(image.float(), factor).double(), shrunk, rtol=0, atol=1e-6)


def test_has_the_published_weights() -> None:
    impulses = torch.eye(16).view(16, 1, 16).expand(16, 8, 16)[:, None]
    assert shrink_bicubic(impulses, 2)[5:13, 0, 0, 4].tolist() == pytest.approx(SHRINK_BY_2, abs=1e-7)
    enlarged = enlarge_bicubic(impulses, 2)
    assert enlarged[6:10, 0, 0, 16].tolist() == pytest.approx(ENLARGE_BY_2[0], abs=1e-7)
    assert enlarged[7:11, 0, 0, 17].tolist() == pytest.approx(ENLARGE_BY_2[1], abs=1e-7)


def test_any_leading_dimensions_and_channels() -> None:
    images = torch.rand(2, 3, 5, 9, 6)
    shrunk = shrink_bicubic(images, 2)
    assert shrunk.shape == (2, 3, 5, 5, 3)
    torch.testing.assert_close(shrunk[1, 2], shrink_bicubic(images[1, 2], 2))


def test_differs_from_pytorchs_antialiasing_at_the_border_alone() -> None:
    image = torch.rand(1, 3, 32, 40)
    theirs = torch.nn.functional.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True)
    difference = (shrink_bicubic(image, 2) - theirs).abs()
    assert difference[..., 2:-2, 2:-2].max() < 1e-6
    assert difference.max() > 1e-3


def test_gradients_flow() -> None:
    image = torch.rand(1, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda picture: shrink_bicubic(picture, 2), image)
