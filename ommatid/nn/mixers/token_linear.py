"""One matrix along the tokens, the same for every channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.ops.refusal import require_map


class TokenLinear(nn.Linear):
    """A linear layer over all tokens of a map of a fixed size: (B, rows, columns, C) -> (B, rows, columns, C).

    What mixes the tokens in ResMLP (arXiv 2105.03404), and in the gates of gMLP (arXiv 2105.08050).
    Cost: (H W)^2 C multiply-adds.

    Args:
        tokens: rows * columns.
        bias: whether every token has one.

    Raises:
        ValueError: in the forward pass, a map of another number of tokens.
    """

    def __init__(self, tokens: int, *, bias: bool = True) -> None:
        super().__init__(tokens, tokens, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        require_map(x.shape[1] * x.shape[2] == self.in_features, x, f"one of {self.in_features} tokens")
        # All maps side by side are one product. In a batched one, the gradient would first be a matrix for every map.
        tokens = x.flatten(1, 2).transpose(0, 1)
        columns = tokens.flatten(1)
        mixed = self.weight @ columns if self.bias is None else torch.addmm(self.bias[:, None], self.weight, columns)
        return mixed.view(tokens.shape).transpose(0, 1).unflatten(1, x.shape[1:3])
