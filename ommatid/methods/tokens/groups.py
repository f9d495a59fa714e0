"""Which patches of an image a reduced model took for one, and which it dropped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.methods.reduced import Reduced
from ommatid.nn.trunks.shown import patch_groups


@torch.no_grad()
def token_groups(model: Reduced, images: Tensor) -> Tensor | None:
    """(B, C, H, W) -> (B, h, w) integers: equal for patches that became one token, -1 for dropped ones.

    None where the method keeps every token, or patches are more than the image's cells.
    """
    tokens, grid = trunk_inputs(model, images)
    one_layer = grid[0] == images.shape[-2] // model.strides[0]
    groups = patch_groups(model.model.blocks, tokens, grid) if one_layer else None
    return None if groups is None else groups.unflatten(1, grid)


@torch.no_grad()
def trunk_inputs(model: Reduced, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(B, C, H, W) -> the tokens (B, S + N, C) that the trunk reads, and the rows and columns of their grid."""
    read: list[tuple[Tensor, tuple[int, int]]] = []

    def remember(_: object, inputs: tuple[Tensor, tuple[int, int]]) -> None:
        read.append(inputs)

    trunk = model.model.blocks
    assert isinstance(trunk, nn.Module)
    hook = trunk.register_forward_pre_hook(remember)
    try:
        model.tokens(images)
    finally:
        hook.remove()
    return read[0]
