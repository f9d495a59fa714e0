"""Token mixing by an MLP: along the tokens, the same for every channel."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.feedforward import MLP


class TokenMLP(nn.Module):
    """An MLP over all tokens of a map of a fixed size: (B, rows, columns, C) -> (B, rows, columns, C).

    The token mixer of MLP-Mixer (arXiv 2105.01601). Cost: 2 hidden H W C multiply-adds.

    Args:
        tokens: rows * columns.
        hidden: width between the two linear layers.
    """

    def __init__(self, tokens: int, hidden: int) -> None:
        super().__init__()
        self.mlp = MLP(tokens, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x.flatten(1, 2).mT).mT.reshape(x.shape)
