"""Raft token mixing: an MLP along one axis, over a column or row of several channels at a time."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.ops.refusal import require_map


class RaftMixer(nn.Module):
    """An MLP along one axis of a square map, over several channels at a time: (B, P, P, C) -> (B, P, P, C).

    The raft-token-mixing of "RaftMLP: How Much Can Be Done Without Attention and with Less Spatial Locality?"
    (arXiv 2108.04384). The raft that is mixed together is r channels, C / r apart, of one column or one row.
    Cost: 2 hidden H W C / P multiply-adds.

    Args:
        side: P.
        raft: r; divides C.
        hidden: width between the two linear layers.
        vertical: whether the axis is that of the rows' numbers; along a row otherwise.

    Raises:
        ValueError: in the forward pass, lines that are not of P tokens.
    """

    def __init__(self, side: int, raft: int, hidden: int, *, vertical: bool) -> None:
        super().__init__()
        self.side = side
        self.raft = raft
        self.vertical = vertical
        self.mlp = MLP(raft * side, hidden)

    def forward(self, x: Tensor) -> Tensor:
        require_map(x.shape[1 if self.vertical else 2] == self.side, x, f"{self.side} tokens a line")
        lines = x.transpose(1, 2) if self.vertical else x
        rafts = lines.unflatten(-1, (self.raft, -1)).permute(0, 1, 4, 3, 2)  # (B, lines, C / r, r, P)
        mixed = self.mlp(rafts.flatten(3)).view(rafts.shape).permute(0, 1, 4, 3, 2).flatten(3)
        return mixed.transpose(1, 2) if self.vertical else mixed
