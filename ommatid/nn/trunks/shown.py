"""What a trunk did with the patches of each image, for pictures of it."""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.nn.trunks.clustered import ClusteredTrunk
from ommatid.nn.trunks.interpreted import InterpretedTrunk
from ommatid.nn.trunks.merging import MergingTrunk
from ommatid.ops.token_clustering import nearest_center


@torch.no_grad()
def patch_groups(trunk: object, tokens: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """(B, N) integers: patches with the same number went on as one, those with -1 were dropped.

    None for a trunk that keeps every token. Arguments are those of a trunk; N = H W.
    """
    patches = grid[0] * grid[1]
    if isinstance(trunk, InterpretedTrunk):
        kept = trunk.interpreted(tokens).policies[-1][:, -patches:]
        return torch.where(kept > 0, torch.arange(patches, device=kept.device), -1)
    if isinstance(trunk, MergingTrunk):
        place = trunk.merged(tokens).place
        return None if place is None else place[:, -patches:]
    if isinstance(trunk, ClusteredTrunk) and trunk.cells(grid) != grid:
        before, centers, _ = trunk.clustered(tokens, grid)
        return nearest_center(before, centers)
    return None
