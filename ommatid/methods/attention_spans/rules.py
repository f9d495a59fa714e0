"""The rules that a head can have, and what each of them costs and loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ommatid.ops.elastic_window import block_layout


class Spans(NamedTuple):
    """R rules: windows of alpha + beta N tokens at length N, as float32 tensors (R)."""

    alpha: Tensor
    beta: Tensor

    def layout(self, length: int, block_size: int) -> Tensor:
        """Booleans (R, blocks, blocks): what is seen at this length."""
        return block_layout(self.alpha, self.beta, length // block_size, block_size)

    def cost(self, length: int, block_size: int) -> Tensor:
        """Keys that have to be kept, (R): those of the row that sees most."""
        layout = self.layout(length, block_size)
        return layout.sum(-1).amax(-1) / layout.shape[-1] * length

    def loss(self, influence: Tensor, block_size: int) -> Tensor:
        """(heads, R): the block influence (heads, blocks, blocks) of what each rule does not see."""
        unseen = ~self.layout(influence.shape[-1] * block_size, block_size)
        causal = torch.ones_like(unseen[0]).tril()
        return torch.einsum("hij,rij->hr", influence, (unseen & causal).to(influence.dtype))


def candidate_rules(
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    max_profile_length: int,
    max_token_length: int,
    min_token_length: int,
) -> Spans:
    """All pairs whose windows are positive and never longer than the text, the shortest at the longest text first."""
    alpha, beta = (
        grid.flatten()
        for grid in torch.meshgrid(torch.tensor(alphas).float(), torch.tensor(betas).float(), indexing="ij")
    )
    possible = (
        (alpha + beta * max_profile_length <= max_profile_length)
        & (alpha + beta * max_token_length <= max_token_length)
        & (alpha + beta * min_token_length > 0)
    )
    alpha, beta = alpha[possible], beta[possible]
    order = torch.argsort(alpha + beta * max_token_length, stable=True)
    return Spans(alpha[order], beta[order])


def grouped_heads(spans: Spans) -> Tensor:
    """An order of heads, (heads), in which equal rules are neighbours: by alpha, beta, then as they were."""
    order = torch.argsort(spans.beta, stable=True)
    return order[torch.argsort(spans.alpha[order], stable=True)]
