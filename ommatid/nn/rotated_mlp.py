"""A gated channel mixer in which the strongest channel speaks to all, and pairs of channels rotate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.squeeze_excite import SqueezeExcite


class RotatedMLP(nn.Module):
    """Gated MLP with a 3x3 convolution: (B, H, W, C) -> (B, H, W, C).

    The channel mixer of SpaRTAN (arXiv 2507.10999). The gated product of the channel that is largest at a position is
    added to all others there; neighbouring channels are then multiplied, as complex numbers, by learned ones.
    Cost: 3 r H W C^2 multiply-adds, and 9 r H W C (depthwise) or 9 r^2 H W C for the convolution, with r = hidden / C.

    Args:
        dim: C.
        hidden: width between the linear layers: even, and a multiple of C.
        depthwise: whether the convolution is depthwise, not of hidden / C channels at a time.
        eps: of the batch norm.
    """

    def __init__(self, dim: int, hidden: int, *, depthwise: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.content = nn.Linear(dim, hidden)
        self.weight = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.rotation = nn.Parameter(torch.randn(hidden // 2, 2))
        groups = hidden if depthwise else dim
        self.conv = ConvNorm(hidden, hidden, 3, groups=groups, act=nn.GELU(), eps=eps)
        self.gate = SqueezeExcite(hidden, dim // 4)
        self.proj = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gated = self.act(self.content(x)) * self.weight(x)
        reinforced = gated + gated.gather(-1, x.argmax(-1, keepdim=True))
        return self.proj(self.gate(self.conv(complex_product(reinforced, self.rotation))))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def complex_product(features: Tensor, factors: Tensor) -> Tensor:
    """Multiplies (..., 2 n) channels, pairs of real and imaginary parts, by n complex numbers (n, 2); in float32."""
    real, imaginary = features.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = factors.float().unbind(-1)
    product = torch.stack([cosine * real - sine * imaginary, cosine * imaginary + sine * real], dim=-1)
    return product.flatten(-2).to(features.dtype)
