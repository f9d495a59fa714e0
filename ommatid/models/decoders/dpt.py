"""DPT: maps of several resolutions from the tokens of a plain transformer, and one answer from them all.

"Vision Transformers for Dense Prediction" (arXiv 2103.13413).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d, ConvTranspose2d
from ommatid.nn.residual import Residual
from ommatid.nn.upsample import Doubled
from ommatid.ops.refusal import require_map


class DPT(nn.Module):
    """Four maps (B, H, W, C_i) of one size, from an early to the last layer -> an answer (B, 16 H, 16 W, out_dim).

    Args:
        dims: C_1 to C_4.
        layer_dims: of the maps of 4, 2, 1 and 1/2 times the size.
        dim: that all are fused in.
        last_dim: before the answer.
        out_dim: of the answer.

    Raises:
        ValueError: the maps have an odd side, which halving and doubling would change.
    """

    def __init__(
        self, dims: Sequence[int], layer_dims: Sequence[int], *, dim: int = 256, last_dim: int = 32, out_dim: int = 1
    ) -> None:
        super().__init__()
        first, second, _, fourth = layer_dims
        resizes: list[list[nn.Module]] = [
            [ConvTranspose2d(first, first, 4, stride=4)],
            [ConvTranspose2d(second, second, 2, stride=2)],
            [],
            [Conv2d(fourth, fourth, 3, stride=2, padding=1)],
        ]
        self.reassemble = nn.ModuleList(
            nn.Sequential(Conv2d(in_dim, layer_dim, 1), *resize)
            for in_dim, layer_dim, resize in zip(dims, layer_dims, resizes, strict=True)
        )
        self.project = nn.ModuleList(Conv2d(layer_dim, dim, 3, padding=1, bias=False) for layer_dim in layer_dims)
        self.fusions = nn.ModuleList(Fusion(dim, joins=level < 3) for level in range(4))
        self.head = nn.Sequential(
            Conv2d(dim, dim // 2, 3, padding=1),
            Doubled(),
            Conv2d(dim // 2, last_dim, 3, padding=1),
            nn.ReLU(),
            Conv2d(last_dim, out_dim, 1),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        rows, columns = maps[0].shape[1:3]
        require_map(rows % 2 == 0 and columns % 2 == 0, maps[0], "even sides")
        layers = [
            project(reassemble(features))
            for project, reassemble, features in zip(self.project, self.reassemble, maps, strict=True)
        ]
        fused = self.fusions[3](layers[3])
        for level in (2, 1, 0):
            fused = self.fusions[level](fused, layers[level])
        return self.head(fused)


class Fusion(nn.Module):
    """Adds a finer map to what came from the coarser ones, and doubles the size: (B, H, W, C) -> (B, 2 H, 2 W, C).

    Args:
        dim: C.
        joins: whether there is a map to add.
    """

    def __init__(self, dim: int, *, joins: bool) -> None:
        super().__init__()
        self.join = conv_unit(dim) if joins else None
        self.refine = conv_unit(dim)
        self.up = Doubled()
        self.proj = Conv2d(dim, dim, 1)

    def forward(self, coarse: Tensor, fine: Tensor | None = None) -> Tensor:
        if self.join is not None and fine is not None:
            coarse = coarse + self.join(fine)
        return self.proj(self.up(self.refine(coarse)))


def conv_unit(dim: int) -> Residual:
    """x plus two 3x3 convolutions of x, each behind a ReLU: (B, H, W, C) -> (B, H, W, C)."""
    convs = (Conv2d(dim, dim, 3, padding=1) for _ in range(2))
    return Residual(dim, nn.Sequential(*(layer for conv in convs for layer in (nn.ReLU(), conv))), norm=nn.Identity)
