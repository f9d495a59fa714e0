"""gMLP: an MLP in which half of the hidden channels, mixed along the tokens, gate the other half."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.mixers.token_linear import TokenLinear
from ommatid.nn.norm import LayerNorm


class GatedTokenMLP(nn.Module):
    """MLP with a spatial gating unit, on a map of a fixed size: (B, rows, columns, C) -> (B, rows, columns, C).

    "Pay Attention to MLPs" (arXiv 2105.08050). The gate is 1 plus a matrix times the tokens, so that a small matrix
    lets everything pass. Cost: 1.5 r H W C^2 + r (H W)^2 C / 2 multiply-adds, with r = hidden / C.

    Args:
        dim: C.
        tokens: rows * columns.
        hidden: width of both halves together; even.
        act: the activation in front of the gate; GELU where None.
        bias: of all linear layers.

    Raises:
        ValueError: in the forward pass, a map of another number of tokens.
    """

    def __init__(self, dim: int, tokens: int, hidden: int, *, act: nn.Module | None = None, bias: bool = True) -> None:
        super().__init__()
        half = hidden // 2
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.act = act or nn.GELU()
        self.norm = LayerNorm(half)
        self.gate = TokenLinear(tokens, bias=bias)
        self.fc2 = nn.Linear(half, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        content, gate = self.act(self.fc1(x)).chunk(2, dim=-1)
        return self.fc2(content * (self.gate(self.norm(gate)) + 1))
