"""Token mixing by an MLP: along the tokens, the same for every channel."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.ops.refusal import require_map


class TokenMLP(nn.Module):
    """An MLP over all tokens of a map of a fixed size: (B, rows, columns, C) -> (B, rows, columns, C).

    The token mixer of MLP-Mixer (arXiv 2105.01601). Cost: 2 hidden H W C multiply-adds.

    Args:
        tokens: rows * columns.
        hidden: width between the two linear layers.

    Raises:
        ValueError: in the forward pass, a map of another number of tokens.
    """

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.mlp = MLP(tokens, hidden)

    def forward(self, x: Tensor) -> Tensor:
        require_map(x.shape[1] * x.shape[2] == self.tokens, x, f"one of {self.tokens} tokens")
        return self.mlp(x.flatten(1, 2).mT).mT.reshape(x.shape)
