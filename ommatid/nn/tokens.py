"""Maps as sequences of tokens: special tokens in front, and learned positions for all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.position import Interpolation, resample_positions


class TokenSequence(nn.Module):
    """A map as a sequence with learned positions, perhaps behind a class token: (B, H, W, C) -> (B, [1 +] H W, C).

    The class token and its position come first; the positions of a map of another size are resampled. From ViT
    (arXiv 2010.11929).

    Args:
        grid: rows and columns of the position table.
        dim: C.
        class_token: whether there is one.
        distillation_token: whether another one follows it, of DeiT (arXiv 2012.12877).
        mode, antialias: of the resampling.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        dim: int,
        *,
        class_token: bool = True,
        distillation_token: bool = False,
        mode: Interpolation = "bicubic",
        antialias: bool = True,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.mode: Interpolation = mode
        self.antialias = antialias
        special = int(class_token) + int(distillation_token)
        self.class_token = ClassToken(dim, special) if special else nn.Identity()
        self.position = nn.Parameter(torch.zeros(1, special + grid[0] * grid[1], dim))
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, patches: Tensor) -> Tensor:
        size = (patches.shape[1], patches.shape[2])
        position = resample_sequence(self.position, self.grid, size, mode=self.mode, antialias=self.antialias)
        return self.class_token(patches.flatten(1, 2)) + position


class ClassToken(nn.Module):
    """Puts a learned token, or `count` of them, in front of a sequence: (B, N, C) -> (B, count + N, C)."""

    def __init__(self, dim: int, count: int = 1) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, count, dim))
        nn.init.trunc_normal_(self.token, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1)


def resample_sequence(
    table: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    *,
    mode: Interpolation = "bicubic",
    antialias: bool = True,
) -> Tensor:
    """A position table (1, S + h w, C) of a grid (h, w) for another one; the S special tokens' positions stay."""
    if grid == size:
        return table
    special, patches = split_tokens(table, grid)
    return join_tokens(special, resample_positions(patches, size, mode=mode, antialias=antialias))


def sequence_on_grid(table: Tensor, grid: tuple[int, int], *, special: int = 1) -> Tensor:
    """A stored position table (1, S + N, C), with S special tokens, for a grid.

    One that belongs to a square grid of another size is resampled; any other is returned as it is.
    """
    patches = table.shape[1] - special
    side = round(patches**0.5)
    if patches == grid[0] * grid[1] or side * side != patches:
        return table
    return resample_sequence(table, (side, side), grid)


def split_tokens(tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(B, S + H W, C) -> (B, S, C) and (B, H, W, C), where size is (H, W)."""
    patches = size[0] * size[1]
    special, rest = tokens.split([tokens.shape[1] - patches, patches], dim=1)
    return special, rest.unflatten(1, size)


def join_tokens(special: Tensor, features: Tensor) -> Tensor:
    """Undoes `split_tokens`."""
    tokens = features.flatten(1, 2)
    return torch.cat([special, tokens], dim=1) if special.shape[1] else tokens
