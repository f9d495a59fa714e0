"""Routes of every shape: each visits a map once, in the order that its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ommatid.ops.scan_routes import ROUTES, Shape, along_routes, by_position, scan_routes

SHAPES: tuple[Shape, ...] = ("snake", "diagonal", "spiral", "raster")

# On 3 rows of 4 columns, positions counted row by row: the first and the second route of each shape.
EXPECTED: dict[Shape, tuple[list[int], list[int]]] = {
    "snake": ([0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11], [0, 4, 8, 9, 5, 1, 2, 6, 10, 11, 7, 3]),
    "diagonal": ([0, 1, 4, 8, 5, 2, 3, 6, 9, 10, 7, 11], [3, 2, 7, 11, 6, 1, 0, 5, 10, 9, 4, 8]),
    "spiral": ([0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5, 6], [8, 9, 10, 11, 7, 3, 2, 1, 0, 4, 5, 6]),
    "raster": ([*range(12)], [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_routes_are_in_order_and_each_has_its_reverse(shape: Shape) -> None:
    first, back, second, second_back = scan_routes((3, 4), (shape,)).tolist()
    assert (first, second) == EXPECTED[shape]
    assert (back, second_back) == (first[::-1], second[::-1])


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (2, 7), (6, 6), (5, 3)])
def test_routes_visit_every_position_once(size: tuple[int, int]) -> None:
    routes = np.sort(scan_routes(size, SHAPES), axis=1)
    assert (routes == np.arange(size[0] * size[1])).all()


def test_what_is_read_along_routes_comes_back_to_its_position() -> None:
    features = torch.randn(2, 5, 3, 8)
    sequences = along_routes(features, SHAPES)
    assert sequences.shape == (2, 4 * ROUTES, 15, 2)
    back = by_position(sequences, (5, 3), SHAPES).unflatten(1, (4, ROUTES))
    assert torch.equal(
        back, features.flatten(1, 2).unflatten(-1, (4, 2)).permute(0, 2, 1, 3)[:, :, None].expand_as(back)
    )
