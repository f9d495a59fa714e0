"""Merging the tokens of many views of one scene, of which the first view keeps all of its own.

"FastVGGT: Training-Free Acceleration of Visual Geometry Transformer" (arXiv 2509.02560).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.token_merging import merge_mean

SPECIAL = 5
"""Tokens in front of each view's patches: a camera token and four registers."""


class ViewMerging(NamedTuple):
    """place: (B, N), the row each token goes to, or reads from. length: rows of merged tokens. protected: (P,), tokens
    that follow them as they were."""

    place: Tensor
    length: int
    protected: Tensor

    def merge(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, length + P, C): means, then the protected tokens."""
        # What is protected and takes nothing in has a row of its own behind the others, which is not wanted.
        means = merge_mean(x, self.place, self.length + 1)[:, : self.length]
        return torch.cat([means, x[:, self.protected]], dim=1)

    def unmerge(self, merged: Tensor) -> Tensor:
        """(B, length + P, C) -> (B, N, C)."""
        whole = merged.gather(1, self.place[..., None].expand(-1, -1, merged.shape[-1]))
        return whole.index_copy(1, self.protected, merged[:, self.length :])


def drawn_destinations(
    views: int, grid: tuple[int, int], *, seed: int = 33, device: str | torch.device = "cpu"
) -> Tensor:
    """(views - 1, h // 2, w // 2), from 0 to 3: which token of each 2x2 block others may go into."""
    blocks = (views - 1, grid[0] // 2, grid[1] // 2)
    return torch.randint(4, blocks, generator=torch.Generator().manual_seed(seed)).to(device)


def destinations(choice: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N,) booleans: what takes others in: the first view, special tokens, and one token of each 2x2 block.

    As published, blocks of a grid with an odd number of columns are written one after another without regard to the
    length of its rows, and are no squares of the image.

    Args:
        choice: (views - 1, h // 2, w // 2), 2 dy + dx.
        grid: (h, w).
    """
    patches = grid[0] * grid[1]
    squares = F.one_hot(choice, 4).bool().unflatten(-1, (2, 2)).transpose(2, 3).flatten(1)
    others = F.pad(squares, (0, patches - squares.shape[1]), value=False)
    others = F.pad(others, (SPECIAL, 0), value=True)
    return torch.cat([others.new_ones(SPECIAL + patches), others.flatten()])


def protected_tokens(tokens: int, device: torch.device) -> Tensor:
    """A tenth of all tokens, evenly spaced from the first: (tokens // 10,)."""
    count = tokens // 10
    return torch.arange(count, device=device) * max(1, tokens // max(count, 1))


def match_views(metric: Tensor, destination: Tensor, *, merge_ratio: float = 0.9, protect: bool = True) -> ViewMerging:
    """Which tokens go into which, the most similar ones first. Nothing here has a gradient.

    The order is: what stays of the others, by falling similarity; then the destinations.

    Args:
        metric: (B, N, D), compared by the cosine.
        destination: (N,) booleans.
        merge_ratio: tokens to merge away, as a share of all; at most those that are no destination.
        protect: whether a tenth of all is never merged away. A protected destination is there twice.
    """
    batch, tokens, _ = metric.shape
    protected = protected_tokens(tokens, metric.device)[: tokens if protect else 0]
    takes, goes = destination.nonzero()[:, 0], (~destination).nonzero()[:, 0]
    stays = torch.isin(goes, protected)
    movable = len(goes) - int(stays.sum())
    merged = min(int(merge_ratio * tokens), movable)
    with torch.autocast(metric.device.type, enabled=False):
        unit = metric.detach().float()
        unit = unit / unit.norm(dim=-1, keepdim=True)
        best, partner = (unit[:, goes] @ unit[:, takes].mT).max(-1)
    rank = best.masked_fill(stays, -torch.inf).argsort(-1, descending=True).argsort(-1)
    unmerged = movable - merged
    length = unmerged + len(takes)
    row = torch.where(rank < merged, unmerged + partner, torch.where(rank < movable, rank - merged, length))
    place = torch.empty(batch, tokens, dtype=torch.long, device=metric.device)
    place[:, takes] = unmerged + torch.arange(len(takes), device=metric.device)
    place[:, goes] = row
    return ViewMerging(place, length, protected)
