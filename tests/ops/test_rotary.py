"""Rotations by rows and columns: lengths stay, and only differences of positions count."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ommatid.ops.rotary import GridRotation, grid_positions, grid_rotation, rotate_grid_halves, rotate_grid_neighbours

Rotate = Callable[[Tensor, GridRotation], Tensor]


@pytest.mark.parametrize("rotate", [rotate_grid_halves, rotate_grid_neighbours])
def test_only_differences_of_positions_count(rotate: Rotate) -> None:
    query, key = torch.randn(2, 6, 3, 8), torch.randn(2, 6, 3, 8)
    positions = grid_positions(2, 3)

    def scores(positions: Tensor) -> Tensor:
        rotation = grid_rotation(positions, 8, 100.0)
        return torch.einsum("bnhd, bmhd -> bhnm", rotate(query, rotation), rotate(key, rotation))

    torch.testing.assert_close(scores(positions + torch.tensor([3, 5])), scores(positions), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(scores(2 * positions), scores(positions), atol=1e-2)


@pytest.mark.parametrize("rotate", [rotate_grid_halves, rotate_grid_neighbours])
def test_lengths_stay(rotate: Rotate) -> None:
    x = torch.randn(2, 6, 3, 8)
    rotated = rotate(x, grid_rotation(grid_positions(2, 3), 8, 100.0))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
