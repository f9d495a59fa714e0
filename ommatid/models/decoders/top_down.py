"""Feature pyramid network: what coarse maps know, handed down to the fine ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.nn.norm import GroupNorm
from ommatid.nn.top_down import handed_down


class FeaturePyramidNetwork(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> the same resolutions of one width.

    "Feature Pyramid Networks for Object Detection" (arXiv 1612.03144), with group norms.
    Cost: sum of H_i W_i (C_i dim + 9 dim^2) multiply-adds.

    Args:
        channels: C_i.
        dim: width of all answers.
        act: whether ReLUs follow the norms, as in semantic segmentation.
    """

    def __init__(self, channels: Sequence[int], dim: int, *, act: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(normed_conv(width, dim, 1, act=act) for width in channels)
        self.output = nn.ModuleList(normed_conv(dim, dim, 3, act=act) for _ in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        joined = handed_down([lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)])
        return [output(level) for output, level in zip(self.output, joined, strict=True)]


def normed_conv(in_dim: int, dim: int, kernel_size: int, *, act: bool = True) -> nn.Sequential:
    """Convolution, group norm and ReLU: (B, H, W, C_in) -> (B, H, W, dim). Batches of one image train as well."""
    conv = Conv2d(in_dim, dim, kernel_size, padding=kernel_size // 2, bias=False)
    layers: list[nn.Module] = [conv, GroupNorm(groups_of(dim), dim)]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


def groups_of(dim: int) -> int:
    """The number of groups up to 32 that divides a width, with 4 channels each at least."""
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if dim % groups == 0 and (dim // groups >= 4 or groups == 1))
