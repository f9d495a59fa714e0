"""A sequence in blocks of one size, each seen together with the blocks beside it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def with_neighbors(blocks: Tensor, *, before: int, after: int = 0, fill: float = 0.0) -> Tensor:
    """Puts beside every block those before and after it: (..., blocks, size, d) -> (..., blocks, sizes, d).

    Args:
        before, after: how many blocks on either side; sizes = (before + 1 + after) * size.
        fill: stands where there are no blocks any more.
    """
    padded = F.pad(blocks, (0, 0, 0, 0, before, after), value=fill)
    count = blocks.shape[-3]
    return torch.cat([padded.narrow(-3, start, count) for start in range(before + 1 + after)], dim=-2)


def block_positions(blocks: int, size: int, *, before: int, after: int = 0, device: torch.device) -> Tensor:
    """(blocks, sizes): at which position each token of `with_neighbors` is; -1 where there are no blocks any more."""
    own = torch.arange(blocks * size, device=device).view(blocks, size, 1)
    return with_neighbors(own, before=before, after=after, fill=-1).squeeze(-1)
