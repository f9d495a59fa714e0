"""Semantic FPN: a feature pyramid network, its levels enlarged step by step and added up."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ommatid.models.decoders.top_down import FeaturePyramidNetwork, normed_conv
from ommatid.ops.resize import resample


class SemanticFPN(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim).

    "Panoptic Feature Pyramid Networks" (arXiv 1901.02446): level i goes through i steps of convolution and doubling.

    Args:
        channels: C_i.
        dim: width of the answer.
        pyramid_dim: width of the feature pyramid network; 2 dim where None.
    """

    def __init__(self, channels: Sequence[int], dim: int, *, pyramid_dim: int | None = None) -> None:
        super().__init__()
        width = pyramid_dim or 2 * dim
        self.pyramid = FeaturePyramidNetwork(channels, width)
        self.branches = nn.ModuleList(
            nn.ModuleList(normed_conv(dim if step else width, dim, 3) for step in range(max(level, 1)))
            for level in range(len(channels))
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        levels = self.pyramid(maps)
        sizes = [(level.shape[1], level.shape[2]) for level in levels]
        enlarged = []
        for index, (branch, level) in enumerate(zip(self.branches, levels, strict=True)):
            for step, conv in enumerate(branch.children()):
                level = resample(conv(level), sizes[max(index - step - 1, 0)], mode="bilinear")
            enlarged.append(level)
        return sum(enlarged[1:], start=enlarged[0])
