"""Cross gating: two maps tell each other what matters."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import ConvTranspose2d
from ommatid.nn.init import init_lecun_normal_
from ommatid.nn.mixers import TokenLinear, multi_axis_linear
from ommatid.nn.norm import LayerNorm


class CrossGating(nn.Module):
    """Two maps of one size that gate each other: (B, H, W, C_x), (B, H, W, C) -> (B, H, W, C) twice.

    Each is multiplied by gates made of the other, which mix tokens on grids and in windows; the first then also gets
    the second. From MAXIM (arXiv 2201.02973). Cost: H W (13 C^2 + 2 C (G + W)) multiply-adds and those of the first
    projection, for G cells of the grid and W of the window.

    Args:
        dim: C.
        window, grid: rows and columns; H and W are multiples of both.
        in_dim: C_x; C where None.
        guide_dim: channels of the second map where it is of half the size, and enlarged first.
        bias: of all layers.
    """

    def __init__(
        self,
        dim: int,
        window: tuple[int, int],
        grid: tuple[int, int],
        *,
        in_dim: int | None = None,
        guide_dim: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()

        def expand() -> nn.Sequential:
            return nn.Sequential(LayerNorm(dim), nn.Linear(dim, dim, bias=bias), nn.GELU(approximate="tanh"))

        def gating() -> nn.Sequential:
            return nn.Sequential(LayerNorm(dim), multi_axis_linear(dim, window, grid, bias=bias))

        self.enlarge = ConvTranspose2d(guide_dim, dim, 2, stride=2, bias=bias) if guide_dim else nn.Identity()
        self.project_x, self.project_y = nn.Linear(in_dim or dim, dim, bias=bias), nn.Linear(dim, dim, bias=bias)
        self.expand_x, self.expand_y = expand(), expand()
        self.gating_x, self.gating_y = gating(), gating()
        self.reduce_x, self.reduce_y = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.project_x(x), self.project_y(self.enlarge(y))
        features_x, features_y = self.expand_x(x), self.expand_y(y)
        gated_y = self.reduce_y(features_y * self.gating_x(features_x)) + y
        gated_x = self.reduce_x(features_x * self.gating_y(features_y)) + gated_y + x
        return gated_x, gated_y


def init_cross_gating_(part: nn.Module) -> None:
    """For `model.apply`. Cross gating as in JAX; what mixes the tokens lets almost everything pass."""
    if isinstance(part, CrossGating):
        part.apply(init_lecun_normal_)
        for layer in part.modules():
            if isinstance(layer, TokenLinear):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.ones_(layer.bias)
