"""Shifted windows: whoever were neighbours before the shift meet, all others are named, and every token comes home."""

import pytest
import torch
from torch import Tensor

from ommatid.ops.shifted_windows import foreign_pairs, mix_in_windows
from ommatid.ops.windows import merge, partition

# (height, width), window, shift: several windows, one window, rectangles, and a shift along one axis only.
CASES = [
    ((8, 12), (4, 4), (2, 2)),
    ((8, 12), (4, 4), (0, 0)),
    ((7, 7), (7, 7), (3, 3)),
    ((10, 5), (5, 5), (2, 2)),
    ((8, 16), (2, 8), (1, 4)),
    ((6, 3), (3, 1), (1, 0)),
]


@pytest.mark.parametrize(("size", "window", "shift"), CASES)
def test_every_token_comes_home(size, window, shift) -> None:
    features = torch.randn(2, *size, 3)
    assert torch.equal(mix_in_windows(lambda windows, foreign: windows, features, window, shift), features)


@pytest.mark.parametrize(("size", "window", "shift"), CASES)
def test_windows_are_those_of_the_rolled_map(size, window, shift) -> None:
    features = torch.randn(2, *size, 3)
    rolled = features.roll((-shift[0], -shift[1]), (1, 2))
    sums = partition(rolled, window).cumsum(2)
    expected = merge(sums, window, size).roll(shift, (1, 2))
    torch.testing.assert_close(
        mix_in_windows(lambda windows, foreign: windows.cumsum(1), features, window, shift), expected
    )


@pytest.mark.parametrize(("size", "window", "shift"), CASES)
def test_tokens_may_meet_exactly_if_the_shift_kept_them_neighbours(size, window, shift) -> None:
    row, column = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    # Only rows and columns before the shift are carried around the border, to the far end of the map.
    carried = torch.stack([row < shift[0], column < shift[1]], -1)[None]
    checked = 0

    def check(windows: Tensor, foreign: Tensor | None) -> Tensor:
        nonlocal checked
        together = (windows[:, :, None] == windows[:, None, :]).all(-1)
        expected = torch.ones_like(together) if foreign is None else ~foreign.expand_as(together)
        assert torch.equal(together, expected)
        checked += len(windows)
        return windows

    mix_in_windows(check, carried, window, shift)
    assert checked == size[0] * size[1] // (window[0] * window[1])


def test_channels_may_have_several_axes() -> None:
    features = torch.randn(2, 8, 4, 3, 5)
    mixed = mix_in_windows(lambda windows, foreign: windows[:, :, 1], features, (4, 2), (2, 1))
    assert torch.equal(mixed, features[:, :, :, 1])


def test_nothing_is_foreign_where_nothing_is_cut() -> None:
    assert foreign_pairs((4, 4), (0, 0)) is None
