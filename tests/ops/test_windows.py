"""Windows: cutting and merging are inverse, padding and overlap are where they should be."""

import pytest
import torch

from ommatid.ops.windows import (
    center_crop,
    center_pad_to_multiple,
    merge,
    pad_to_multiple,
    partition,
    partition_with_halo,
    window_and_shift,
)


@pytest.mark.parametrize(("size", "window"), [((6, 4), (3, 2)), ((8, 8), (4, 4)), ((5, 10), (5, 5))])
def test_merge_undoes_partition(size: tuple[int, int], window: tuple[int, int]) -> None:
    features = torch.randn(2, *size, 3)
    windows = partition(features, window)
    assert windows.shape == (2, size[0] * size[1] // (window[0] * window[1]), window[0] * window[1], 3)
    assert torch.equal(merge(windows, window, size), features)


def test_partition_is_row_major() -> None:
    features = torch.arange(16).view(1, 4, 4, 1)
    assert partition(features, (2, 2))[0, :, :, 0].tolist() == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
        [8, 9, 12, 13],
        [10, 11, 14, 15],
    ]


def test_padding_is_at_the_bottom_and_right() -> None:
    padded = pad_to_multiple(torch.ones(1, 3, 4, 1), (2, 4))
    assert padded.shape == (1, 4, 4, 1)
    assert padded[0, 3].sum() == 0
    assert padded[0, :3].min() == 1


def test_a_grid_is_spread_over_the_whole_map() -> None:
    features = torch.arange(24).view(1, 4, 6, 1)
    grids = partition(features, (2, 3), (2, 2))
    assert grids[0, :, :, 0].tolist() == [
        [0, 2, 4, 12, 14, 16],
        [1, 3, 5, 13, 15, 17],
        [6, 8, 10, 18, 20, 22],
        [7, 9, 11, 19, 21, 23],
    ]
    assert torch.equal(merge(grids, (2, 3), (4, 6), (2, 2)), features)
    across = partition(features, (4, 2), (1, 3))
    assert across[0, 0, :, 0].tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert torch.equal(merge(across, (4, 2), (4, 6), (1, 3)), features)


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_merge_undoes_partition_at_an_interval(interval: int) -> None:
    features = torch.randn(2, 6 * interval, 4 * interval, 3)
    windows = partition(features, (3, 2), interval)
    assert torch.equal(merge(windows, (3, 2), (6 * interval, 4 * interval), interval), features)


def test_windows_at_an_interval_are_interleaved() -> None:
    features = torch.arange(16).view(1, 4, 4, 1)
    assert partition(features, (2, 2), 2)[0, :, :, 0].tolist() == [
        [0, 2, 8, 10],
        [1, 3, 9, 11],
        [4, 6, 12, 14],
        [5, 7, 13, 15],
    ]


@pytest.mark.parametrize("size", [(3, 5), (4, 8), (6, 7)])
def test_centred_padding_is_undone_by_the_crop(size: tuple[int, int]) -> None:
    features = torch.ones(1, *size, 1)
    padded = center_pad_to_multiple(features, (4, 4))
    assert padded.shape[1] % 4 == padded.shape[2] % 4 == 0
    assert torch.equal(center_crop(padded, size), features)
    assert padded.sum() == features.sum()


def test_a_window_shrinks_to_the_shorter_side_and_then_stays() -> None:
    assert window_and_shift((14, 28), 7) == (7, 3)
    assert window_and_shift((7, 14), 7) == (7, 0)
    assert window_and_shift((14, 5), 7) == (5, 0)


@pytest.mark.parametrize(("block", "halo"), [(2, 1), (3, 2), (2, 0)])
def test_blocks_with_a_halo_overlap(block: int, halo: int) -> None:
    features = torch.randn(2, 2 * block, 3 * block, 3)
    windows = partition_with_halo(features, block, halo).unflatten(2, (block + 2 * halo, -1))
    inner = slice(halo, halo + block)
    assert torch.equal(windows[:, :, inner, inner].flatten(2, 3), partition(features, (block, block)))
    padded = torch.nn.functional.pad(features, (0, 0, halo, halo, halo, halo))
    for row in range(2):
        for column in range(3):
            top, left = row * block, column * block
            expected = padded[:, top : top + block + 2 * halo, left : left + block + 2 * halo]
            assert torch.equal(windows[:, 3 * row + column], expected)
