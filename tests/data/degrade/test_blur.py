from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ommatid.data.degrade.blur import Defocus, Motion, blurred, disk_kernel, line_kernel
from ommatid.data.degrade.step import Range


@pytest.mark.parametrize("kernel", [line_kernel(9, 0.7), line_kernel(1, 0), disk_kernel(0), disk_kernel(3.5)])
def test_kernels_are_odd_symmetric_and_sum_to_one(kernel: torch.Tensor) -> None:
    assert len(kernel) % 2 == 1
    assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))


def test_a_line_is_as_long_as_it_says_and_lies_as_it_says() -> None:
    flat, steep = line_kernel(9, 0), line_kernel(9, math.pi / 2)
    middle = len(flat) // 2
    assert flat[middle].sum().item() == pytest.approx(1, abs=1e-5)
    assert (flat[middle] > 0.02).sum() == 9
    torch.testing.assert_close(steep, flat.T, atol=1e-6, rtol=0)
    diagonal = line_kernel(9, math.pi / 4)
    assert diagonal[middle - 2, middle + 2] > 0.02 > diagonal[middle - 2, middle - 2]


def test_a_disk_is_as_wide_as_it_says() -> None:
    disk = disk_kernel(3)
    assert disk.shape == (7, 7)
    assert (1 / disk.max()).item() == pytest.approx(math.pi * 3**2, rel=0.05)


def test_no_extent_is_no_blur() -> None:
    picture = (torch.rand(3, 20, 20) * 255).round() / 255
    for step in (Motion(Range(1, 1)), Defocus(Range(0, 0))):
        torch.testing.assert_close(step(picture, torch.Generator()), picture, atol=1e-5, rtol=0)


def test_each_picture_moves_in_a_direction_of_its_own() -> None:
    generator, point = torch.Generator().manual_seed(0), torch.zeros(1, 21, 21)
    point[0, 10, 10] = 1
    first, second = (Motion(Range(11, 11))(point, generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_what_is_even_stays_so_up_to_the_border() -> None:
    grey = torch.full((3, 9, 9), 0.5)
    torch.testing.assert_close(blurred(grey, disk_kernel(4)), grey)


@pytest.mark.parametrize("size", [(40, 61), (97, 12)])
def test_a_large_kernel_gives_what_a_convolution_gives(size: tuple[int, int]) -> None:
    picture, kernel = torch.rand(3, *size), line_kernel(60, 0.7) + 0.1 * disk_kernel(31).roll((3, 5), (0, 1))
    picture, kernel = picture.double(), kernel.double()
    reach = len(kernel) // 2
    padded = F.pad(picture, (reach, reach, reach, reach), mode="replicate")
    expected = F.conv2d(padded[:, None], kernel[None, None])[:, 0]
    torch.testing.assert_close(blurred(picture, kernel), expected)


@pytest.mark.parametrize("step", [Motion(Range(2, 12)), Defocus(Range(1, 5.5))])
def test_nothing_comes_from_further_than_it_reaches(step: Motion | Defocus) -> None:
    side = 2 * step.reach + 11
    point = torch.zeros(1, side, side)
    point[0, side // 2, side // 2] = 255  # so that a trace of it would show
    touched = torch.zeros(side, side, dtype=torch.bool)
    for seed in range(40):
        touched |= step(point, torch.Generator().manual_seed(seed))[0] > 0
    assert (touched.nonzero() - side // 2).abs().max() <= step.reach
