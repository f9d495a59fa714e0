"""Tiles and their seams: every pixel once, weights of one, and the untiled answer where the network is local."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.models.restorer import mirrored
from ommatid.tasks.ensemble import self_ensemble
from ommatid.tasks.tiling import Cuts, restore_in_tiles

SIZES = [(1, 300), (300, 1), (31, 57), (64, 64), (65, 130), (200, 333), (1, 1)]


def tiled(
    restore: Callable[[Tensor], Tensor], picture: Tensor, scale: int = 1, tile: int = 32, multiple: int = 1
) -> Tensor:
    """The blocks put together; fails where they overlap or leave a gap."""
    height, width = picture.shape[-2:]
    answer = torch.full((picture.shape[0], scale * height, scale * width), torch.nan)
    blocks = restore_in_tiles(
        restore,
        lambda rows, columns: picture[:, rows, columns],
        (height, width),
        scale=scale,
        tile=tile,
        multiple=(multiple, multiple),
    )
    for top, left, pixels in blocks:
        place = answer[:, top : top + pixels.shape[1], left : left + pixels.shape[2]]
        assert place.shape == pixels.shape
        assert place.isnan().all()
        place.copy_(pixels)
    assert not answer.isnan().any()
    return answer


def convolution(scale: int) -> Callable[[Tensor], Tensor]:
    """Looks 2 pixels far, and enlarges."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 3 * scale**2, 5, padding=2).requires_grad_(False)
    return lambda image: F.pixel_shuffle(layer(image), scale)


@pytest.mark.parametrize("multiple", [1, 8, 24])
@pytest.mark.parametrize("length", [1, 7, 32, 33, 63, 64, 65, 100, 257, 1000])
def test_cuts_cover_an_axis_with_equal_tiles(length: int, multiple: int) -> None:
    cuts = Cuts.of(length, 64, multiple)
    assert cuts.starts[0] == 0
    assert cuts.stops[-1] == length
    assert all(start % multiple == 0 for start in cuts.starts)
    assert cuts.side <= max(2 * multiple, -(-64 // multiple) * multiple)
    assert all(stop - start == cuts.side for start, stop in zip(cuts.starts[:-1], cuts.stops, strict=False))
    assert length <= cuts.stops[-1] < length + multiple
    overlaps = [stop - start for start, stop in zip(cuts.starts[1:], cuts.stops, strict=False)]
    assert all(overlap >= 2 * cuts.fade for overlap in overlaps)


@pytest.mark.parametrize(("length", "multiple", "scale"), list(itertools.product([1, 33, 100, 257], [1, 8], [1, 3])))
def test_weights_of_all_tiles_sum_to_exactly_one(length: int, multiple: int, scale: int) -> None:
    cuts = Cuts.of(length, 48, multiple)
    total = torch.zeros(scale * length)
    for index, (start, stop) in enumerate(zip(cuts.starts, cuts.stops, strict=True)):
        weights = cuts.weights(index, scale)
        assert weights.min() >= 0
        total[scale * start : scale * stop] += weights
    assert total.equal(torch.ones(scale * length))


def test_a_seam_is_smooth_and_the_border_of_a_tile_is_never_used() -> None:
    weights = Cuts.of(1000, 256, 1).weights(1, 1)
    assert (weights.diff().abs() < 0.11).all()
    assert (weights[:8] == 0).all()
    assert (weights[-8:] == 0).all()
    assert weights.max() == 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("scale", "multiple"), [(1, 1), (1, 8), (3, 1), (2, 4)])
def test_a_local_network_answers_as_without_tiles(size: tuple[int, int], scale: int, multiple: int) -> None:
    picture = torch.rand(3, *size)
    restore = convolution(scale)
    whole = restore(mirrored(picture[None], (multiple, multiple)))[0, :, : scale * size[0], : scale * size[1]]
    answer = tiled(restore, picture, scale, tile=64, multiple=multiple)
    torch.testing.assert_close(answer, whole, rtol=0, atol=2e-6)


def test_windows_are_those_of_the_whole_picture() -> None:
    """Each pixel becomes the mean of its 8 x 8 window: the same with tiles only if these begin where windows do."""

    def window_means(image: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(image, 8), scale_factor=8)

    picture = torch.rand(3, 200, 136)
    answer = tiled(window_means, picture, tile=64, multiple=8)
    whole = window_means(picture[None])[0]
    torch.testing.assert_close(answer, whole, rtol=0, atol=1e-6)


def test_small_tiles_go_through_the_network_together_and_none_is_larger_than_asked() -> None:
    seen: list[torch.Size] = []

    def restore(image: Tensor) -> Tensor:
        seen.append(image.shape)
        return image

    picture = torch.rand(3, 300, 700)
    torch.testing.assert_close(tiled(restore, picture, tile=64), picture, rtol=0, atol=1e-6)
    assert max(shape[0] for shape in seen) > 4
    assert max(shape[-1] for shape in seen) <= 64
    assert max(shape[0] * shape[-1] * shape[-2] for shape in seen) <= 256**2
    seen.clear()
    tiled(restore, picture, tile=256)
    assert {shape[0] for shape in seen} == {1}


def test_self_ensemble_is_the_mean_of_eight_answers() -> None:
    restore = convolution(2)
    picture = torch.rand(2, 3, 9, 14)
    answers = []
    for turn, flip in itertools.product(range(4), (False, True)):
        turned = picture.rot90(turn, (-2, -1))
        answer = restore(turned.flip(-1)).flip(-1) if flip else restore(turned)
        answers.append(answer.rot90(-turn, (-2, -1)))
    torch.testing.assert_close(self_ensemble(restore)(picture), torch.stack(answers).mean(0))


def test_self_ensemble_treats_all_directions_alike() -> None:
    restore = self_ensemble(convolution(1))
    picture = torch.rand(1, 3, 8, 12)
    torch.testing.assert_close(restore(picture.flip(-2)), restore(picture).flip(-2))
    torch.testing.assert_close(restore(picture.mT), restore(picture).mT)
