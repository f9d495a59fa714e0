"""Attention to a few places between the cells of several maps, each query's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes = Sequence[tuple[int, int]]
"""(rows, columns) of each map."""


def deformable_attention(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of values read bilinearly at places in several maps; what lies outside a map counts as 0.

    The sampling of Deformable DETR (arXiv 2010.04159). Each answer is one weighted sum of rows of memory, four for a
    place, over all maps at once: nothing of the size of the places' values is ever made.

    Args:
        values: (B, N, heads, d), the cells of all maps, one map after another, each row-major.
        sizes: (rows, columns) of each map; N cells together.
        locations: (B, Q, heads, levels, points, 2), (x, y) as shares of a map's width and height.
        weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads * d).
    """
    if torch.compiler.is_exporting():
        # What runs a program elsewhere has grid sampling, seldom bags of rows; and the batch stays free.
        return deformable_attention_reference(values, sizes, locations, weights)
    batch, tokens, heads, width = values.shape
    queries = locations.shape[1]
    sides = torch.tensor([(columns, rows) for rows, columns in sizes], device=values.device)  # (levels, 2)
    starts = torch.tensor(_starts(sizes), device=values.device)
    position = locations.float() * sides[:, None] - 0.5
    corner = position.floor()
    fraction = position - corner
    steps = torch.arange(2, device=values.device)
    index = corner.long()[..., None] + steps  # (B, Q, heads, levels, points, 2, 2): x and y, then the two neighbours
    limits = sides[:, None, :, None]
    share = torch.stack([1 - fraction, fraction], dim=-1) * ((index >= 0) & (index < limits))
    index = torch.minimum(index.clamp(min=0), limits - 1)
    (columns, rows), (across, down) = index.unbind(-2), share.unbind(-2)
    cells = starts[:, None, None, None] + rows[..., :, None] * sides[:, 0, None, None, None] + columns[..., None, :]
    shares = weights.float()[..., None, None] * down[..., :, None] * across[..., None, :]
    first = torch.arange(batch, device=values.device) * tokens
    owners = first[:, None, None] * heads + torch.arange(heads, device=values.device)  # (B, 1, heads)
    memory = owners[..., None] + cells.flatten(3) * heads
    sums = F.embedding_bag(
        memory.flatten(0, 2),
        values.reshape(-1, width),
        mode="sum",
        per_sample_weights=shares.to(values.dtype).flatten(3).flatten(0, 2),
    )
    return sums.view(batch, queries, heads * width)


def deformable_attention_reference(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_attention` by PyTorch's `grid_sample`, map by map."""
    batch, _, heads, width = values.shape
    queries = locations.shape[1]
    sampled = []
    for level, (cells, (rows, columns)) in enumerate(zip(split_levels(values, sizes), sizes, strict=True)):
        maps = cells.permute(0, 2, 3, 1).reshape(batch * heads, width, rows, columns)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        sampled.append(F.grid_sample(maps, grid.to(maps.dtype), align_corners=False))
    shares = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, -1)
    sums = (torch.cat(sampled, dim=-1) * shares).sum(-1)
    return sums.view(batch, heads * width, queries).transpose(1, 2)


def split_levels(tokens: Tensor, sizes: Sizes) -> Sequence[Tensor]:
    """(B, N, ...) -> the cells (B, rows * columns, ...) of each map."""
    return tokens.split([rows * columns for rows, columns in sizes], dim=1)


def cell_centres(sizes: Sizes, device: torch.device | None = None) -> Tensor:
    """(N, 2): (x, y) of the cells of all maps, as shares of their map's width and height."""
    grids = []
    for rows, columns in sizes:
        y = (torch.arange(rows, device=device) + 0.5) / rows
        x = (torch.arange(columns, device=device) + 0.5) / columns
        grids.append(torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).flatten(0, 1))
    return torch.cat(grids)


def _starts(sizes: Sizes) -> list[int]:
    """The first cell of each map among all."""
    starts = [0]
    for rows, columns in sizes[:-1]:
        starts.append(starts[-1] + rows * columns)
    return starts
