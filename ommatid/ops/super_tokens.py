"""Super tokens: a map described by few tokens, each the weighted mean of the pixels around one cell of a coarse grid.

Source: "Vision Transformer with Super Token Sampling" (arXiv 2211.11167).

Every pixel belongs, by shares, to the 3 x 3 cells around its own. The shares of cells outside the grid have a score of
0 and count in the softmax, but lead nowhere. The fast version works cell by cell, all pixels of a cell with its nine
super tokens in one matrix product; the reference has a share for every pixel and every super token of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Keeps the mean of a super token without any pixels finite.
EPSILON = 1e-12


def sample_super_tokens(cells: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Super tokens from the pixels, which start as the means of their cells.

    Shares, and all super tokens but those returned, are constants for the gradient, as in the authors' code.

    Args:
        cells: (B, h, w, n, C), the n pixels of each cell of a grid.
        iterations: how often shares and super tokens are computed from each other, at least once.

    Returns:
        (B, h, w, C), and the shares (B, h, w, n, 9), row by row over the neighbouring cells.

    Raises:
        ValueError: no iterations.
    """
    _check(iterations)
    with torch.no_grad():
        shares = associate(cells, cells.mean(3))
        for _ in range(iterations - 1):
            shares = associate(cells, _weighted_means(cells, shares))
    return _weighted_means(cells, shares), shares


def spread(shares: Tensor, super_tokens: Tensor) -> Tensor:
    """Gives every pixel its share of the super tokens: (B, h, w, n, 9), (B, h, w, C) -> (B, h, w, n, C)."""
    return shares @ neighbors(super_tokens).mT


def associate(cells: Tensor, super_tokens: Tensor) -> Tensor:
    """Shares (B, h, w, n, 9) of each pixel in the super tokens around it."""
    scores = cells @ neighbors(super_tokens)
    return (scores * cells.shape[-1] ** -0.5).softmax(-1)


def neighbors(tokens: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, h, w, C, 9): the 3 x 3 tokens around each, row by row, zeros outside the grid."""
    return F.pad(tokens, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1).flatten(-2)


def _weighted_means(cells: Tensor, shares: Tensor) -> Tensor:
    with torch.no_grad():
        weights = _collect(shares.sum(3, keepdim=True))
    return _collect(cells.mT @ shares) / (weights + EPSILON)


def _collect(contributions: Tensor) -> Tensor:
    """The adjoint of `neighbors`: (B, h, w, C, 9) -> (B, h, w, C), what all the cells around send to each."""
    size = (contributions.shape[1], contributions.shape[2])
    columns = contributions.permute(0, 3, 4, 1, 2).flatten(3).flatten(1, 2)
    return F.fold(columns, size, kernel_size=3, padding=1).permute(0, 2, 3, 1)


def sample_super_tokens_reference(cells: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """`sample_super_tokens`, with shares (B, h, w, n, h w) of all super tokens."""
    _check(iterations)
    batch, rows, columns, _, channels = cells.shape
    near = _near((rows, columns), cells.device)
    super_tokens = cells.detach().mean(3)
    for _ in range(iterations):
        with torch.no_grad():
            scores = torch.einsum("byxnc,bsc->byxns", cells, super_tokens.flatten(1, 2)) * channels**-0.5
            exponentials = scores.exp() * near[:, :, None]
            outside = (9 - near.sum(-1))[:, :, None, None]
            shares = exponentials / (exponentials.sum(-1, keepdim=True) + outside)
            weights = shares.sum((1, 2, 3))
        sums = torch.einsum("byxns,byxnc->bsc", shares, cells)
        super_tokens = (sums / (weights[..., None] + EPSILON)).view(batch, rows, columns, channels)
    return super_tokens, shares


def spread_reference(shares: Tensor, super_tokens: Tensor) -> Tensor:
    """`spread` for the shares of `sample_super_tokens_reference`."""
    return shares @ super_tokens.flatten(1, 2)[:, None, None]


def _near(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(h, w, h w): 1 where a cell is one of the 3 x 3 around another, or that itself."""
    rows, columns = (torch.arange(side, device=device) for side in grid)
    down = (rows[:, None] - rows).abs() <= 1
    across = (columns[:, None] - columns).abs() <= 1
    return (down[:, None, :, None] & across[None, :, None, :]).flatten(2).float()


def _check(iterations: int) -> None:
    if iterations < 1:
        raise ValueError(f"iterations = {iterations} is not possible: allowed is 1 or more")
