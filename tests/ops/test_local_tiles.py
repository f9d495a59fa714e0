"""Overlapping tiles of a map, cut out and averaged again."""

import pytest
import torch

from ommatid.ops.local_tiles import average_tiles, cut_tiles, tile_starts


@pytest.mark.parametrize(
    ("length", "tile", "starts"),
    [
        (17, 12, [0, 5]),
        (30, 12, [0, 9, 18]),
        (12, 12, [0]),
        (25, 12, [0, 7, 13]),
        (5, 1, [0, 1, 2, 3, 4]),
        (9, 2, [0, 2, 4, 6, 7]),
        (6, 1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_tiles_lie_evenly_and_the_last_ends_with_the_axis(length: int, tile: int, starts: list[int]) -> None:
    found, new = tile_starts(length, tile)
    assert found[new].tolist() == starts
    assert set(found.tolist()) == set(starts)


def test_a_tile_is_what_lies_there() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 17, 30, 3)
    tiles = cut_tiles(features, 12).unflatten(0, (2, 2, 3))
    torch.testing.assert_close(tiles[1, 1, 2], features[1, 5:17, 18:30])
    torch.testing.assert_close(tiles[0, 0, 1], features[0, :12, 9:21])


@pytest.mark.parametrize("size", [(17, 30), (12, 12), (5, 40), (1, 3), (13, 200)])
def test_averaging_puts_the_map_together_again(size: tuple[int, int]) -> None:
    features = torch.randn(2, *size, 3)
    torch.testing.assert_close(average_tiles(cut_tiles(features, 12), size, 12), features)


def test_what_overlaps_is_averaged() -> None:
    tiles = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 4, 1)
    assert average_tiles(tiles, (1, 6), 4).flatten().tolist() == [1, 1, 2, 2, 3, 3]
