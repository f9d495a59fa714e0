"""A token mixer and an MLP in one residual branch."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.feedforward import MLP
from ommatid.nn.residual import MakeNorm


class SpatialMLP(nn.Module):
    """Token mixer, norm, MLP, with nothing added between: (B, H, W, C) -> (B, H, W, C).

    The inside of a ConvNeXt block (arXiv 2201.03545). Cost: that of the mixer, and 2 r H W C^2 multiply-adds with
    r = hidden / C.

    Args:
        dim: C.
        mixer: (B, H, W, C) -> (B, H, W, C).
        hidden: width inside the MLP.
        norm: makes the norm of a width.
    """

    def __init__(self, dim: int, mixer: nn.Module, hidden: int, *, norm: MakeNorm = nn.LayerNorm) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = norm(dim)
        self.mlp = MLP(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(self.mixer(x)))

    def scale_output_(self, scale: Tensor) -> None:
        self.mlp.scale_output_(scale)
