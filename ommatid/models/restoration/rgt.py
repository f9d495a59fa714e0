"""RGT: attention in rectangular windows alternates with attention to a recursive summary of the whole picture.

"Recursive Generalization Transformer for Image Super-Resolution" (arXiv 2303.06373).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, DYNAMIC_BIAS_NAMES, SWINIR_NAMES
from ommatid.models.registry import register
from ommatid.models.restorer import Restorer, Sides, mirrored
from ommatid.nn.block import Block
from ommatid.nn.conv import Conv2d
from ommatid.nn.image_range import ImageRange
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import RectangleWindowAttention, RecursiveGeneralizationAttention
from ommatid.nn.mixers.recursive_generalization import STRIDE, shortest_side
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.residual_groups import ResidualGroups, residual_conv, residual_group
from ommatid.nn.spatial_gate_mlp import SpatialGateMLP
from ommatid.nn.upsample import Reconstruction, shuffle_factors

# Initial share of a block's input that is added to its output.
INTEGRATION = 1e-4


@dataclass(frozen=True, kw_only=True)
class RGTConfig(PartConfig):
    """`window_size` has both sides of the windows; `c_ratio` is the width of the summary as a share of `dim`."""

    in_channels: int = 3
    dim: int = 180
    depths: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6)
    window_size: tuple[int, int] = (8, 32)
    scale: int = 2
    mlp_ratio: float = 2.0
    qkv_bias: bool = True
    c_ratio: float = 0.5
    img_range: float = 1.0
    resi_connection: Literal["1conv", "3conv"] = "1conv"
    drop_path_rate: float = 0.0

    def check(self) -> None:
        require_stages(depths=self.depths, heads=self.heads)
        require_positive(
            in_channels=self.in_channels,
            depths=self.depths,
            window_size=self.window_size,
            mlp_ratio=self.mlp_ratio,
            c_ratio=self.c_ratio,
            img_range=self.img_range,
        )
        require(self.dim >= 32, "dim", self.dim, "at least 32: the position networks are a 32nd as wide")
        require_divisible((self.dim,) * len(self.heads), self.heads)
        require(
            all(heads % 2 == 0 for heads in self.heads), "heads", self.heads, "even numbers: windows have two shapes"
        )
        summary, hidden = int(self.dim * self.c_ratio), int(self.dim * self.mlp_ratio)
        require_divisible((summary,) * len(self.heads), self.heads)
        require(summary > 0, "c_ratio", self.c_ratio, f"at least 1 / {self.dim}")
        require(
            hidden > 0 and hidden % 2 == 0,
            "mlp_ratio",
            self.mlp_ratio,
            f"what makes {self.dim} channels an even number",
        )
        divides = max(self.window_size) % min(self.window_size) == 0
        require(divides, "window_size", self.window_size, "two sides of which one is a multiple of the other")
        require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "from 0 up to, not including, 1")
        shuffle_factors(self.scale)


@register("rgt", RGTConfig)
class RGT(Restorer):
    """Recursive generalization transformer. Takes any picture: one too narrow for the recursion is mirrored."""

    config: RGTConfig

    def __init__(self, config: RGTConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.scale = config.scale
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.range = ImageRange(config.in_channels, config.img_range)
        self.shallow = Conv2d(config.in_channels, dim, 3, padding=1)
        self.deep = ResidualGroups(
            dim,
            [rgt_group(config, i, rates[i]) for i in range(len(config.depths))],
            residual_conv(dim, config.resi_connection),
        )
        self.reconstruction = Reconstruction(dim, config.in_channels, config.scale)
        self.apply(init_linear_)

    def restore(self, image: Tensor) -> Tensor:
        restored = self.reconstruction(self.deep(self.shallow(self.range.to_map(self.widened(image)))))
        height, width = (side * self.scale for side in image.shape[-2:])
        return self.range.to_image(restored[:, :height, :width])

    def exported_sides(self) -> Sides:
        """Whole windows, and at least two of them; a summary of at least two tokens, after the usual recursion."""
        longer, usual = max(self.config.window_size), shortest_side(1, training=False)
        return Sides((longer, longer), shortest=2 * max(longer, usual), longest=usual * STRIDE**3 - 1)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> the output of each group, (B, C, H, W), larger where the picture is too narrow."""
        shallow = self.shallow(self.range.to_map(self.widened(image)))
        return [features.permute(0, 3, 1, 2) for features in self.deep.maps(shallow)]

    def widened(self, image: Tensor) -> Tensor:
        """The image, mirrored up to the shortest side that the recursion takes."""
        height, width = image.shape[-2:]
        shortest = shortest_side(max(height, width), training=self.training)
        return mirrored(image, (shortest if height < shortest else 1, shortest if width < shortest else 1))


def rgt_group(config: RGTConfig, group: int, rates: Sequence[float]) -> Residual:
    blocks = [rgt_block(config, group, i, drop_path=rate) for i, rate in enumerate(rates)]
    return residual_group(config.dim, blocks, residual_conv(config.dim, config.resi_connection))


def rgt_block(config: RGTConfig, group: int, index: int, *, drop_path: float) -> nn.Module:
    """Blocks look into windows and at the summary by turns; every other window block shifts its windows."""
    dim, heads = config.dim, config.heads[group]
    # The pattern goes on: of even groups the second window block shifts, of odd ones the first.
    shifted = index % 4 == (0 if group % 2 else 2)
    mixer = (
        RecursiveGeneralizationAttention(dim, heads, channel_ratio=config.c_ratio, qkv_bias=config.qkv_bias)
        if index % 2
        else RectangleWindowAttention(dim, heads, config.window_size, shifted=shifted, qkv_bias=config.qkv_bias)
    )
    block = Block(dim, mixer, SpatialGateMLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)
    return HybridAdaptiveIntegration(dim, block)


class HybridAdaptiveIntegration(nn.Module):
    """Adds a learned share of every channel's input to the output: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: C.
        inner: (B, H, W, C) -> the same.
    """

    def __init__(self, dim: int, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.gamma = nn.Parameter(torch.full((dim,), INTEGRATION))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.inner(x), self.gamma, x)


SMALL = RGTConfig()
BASE = SMALL.replace(depths=(6,) * 8, heads=(6,) * 8)

VARIANTS = {
    f"{name}_x{scale}": config.replace(scale=scale)
    for name, config in (("rgt_s", SMALL), ("rgt", BASE))
    for scale in (2, 3, 4)
}

REFERENCE_NAMES = [
    (r"^before_RG\.1\.", "deep.norm_before."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.gamma$", r"deep.groups.\1.inner.blocks.\2.gamma"),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.", r"deep.groups.\1.inner.blocks.\2.inner."),
    (r"\.attn\.attns\.(\d)\.", r".attn.branches.\1."),
    (r"\.attn\.get_v\.", ".attn.local."),
    (r"\.attn\.reduction1\.", ".attn.reduction."),
    (r"\.attn\.dwconv\.", ".attn.summary.local."),
    (r"\.attn\.conv\.", ".attn.summary.proj."),
    (r"\.attn\.norm_act\.0\.", ".attn.summary.norm."),
    (r"\.attn\.q\.", ".attn.query."),
    (r"\.attn\.k\.", ".attn.key."),
    (r"\.attn\.v\.", ".attn.value."),
    (r"\.attn\.cpe\.", ".attn.position.conv."),
    (r"\.mlp\.sg\.", ".mlp."),
    *DYNAMIC_BIAS_NAMES,
    *SWINIR_NAMES,
    *BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"\.rpe_biases$", r"\.relative_position_index$", r"\.attn_mask_\d$", r"^mean$"]
