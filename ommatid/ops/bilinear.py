"""Reading a map between its cells."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_bilinear(features: Tensor, positions: Tensor) -> Tensor:
    """The values of a map at any positions, bilinear; what lies outside the map counts as 0.

    Each result is one weighted sum of four rows of memory: about twice as fast as `grid_sample` on channels-last maps,
    and exact at the cells themselves.

    Args:
        features: (B, H, W, C).
        positions: (B, H', W', 2), (row, column) in cells; (0, 0) is the centre of the first one.

    Returns:
        (B, H', W', C).
    """
    batch, height, width, channels = features.shape
    corner = positions.float().floor()
    fraction = positions - corner
    steps = torch.arange(2, device=features.device)
    rows, columns = (corner[..., axis, None].long() + steps for axis in (0, 1))  # (B, H', W', 2)
    row_weights, column_weights = (
        torch.stack([1 - fraction[..., axis], fraction[..., axis]], dim=-1) * ((index >= 0) & (index < side))
        for axis, index, side in ((0, rows, height), (1, columns, width))
    )
    image = torch.arange(batch, device=features.device).view(-1, 1, 1, 1, 1)
    row_starts = image * height + rows.clamp(0, height - 1)[..., :, None]
    cells = row_starts * width + columns.clamp(0, width - 1)[..., None, :]
    weights = row_weights[..., :, None] * column_weights[..., None, :]
    sums = F.embedding_bag(
        cells.view(-1, 4),
        features.reshape(-1, channels),
        mode="sum",
        per_sample_weights=weights.to(features.dtype).view(-1, 4),
    )
    return sums.view(*positions.shape[:-1], channels)


def sample_bilinear_reference(features: Tensor, positions: Tensor) -> Tensor:
    """`sample_bilinear` by PyTorch's `grid_sample`; sides of at least 2."""
    sides = torch.tensor(features.shape[1:3], device=features.device)
    normalised = 2 * positions / (sides - 1) - 1
    maps = F.grid_sample(features.permute(0, 3, 1, 2), normalised.flip(-1).to(features.dtype), align_corners=True)
    return maps.permute(0, 2, 3, 1)
