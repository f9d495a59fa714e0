"""PVT: the first transformer pyramid, whose attention reads a reduced copy of its own map.

"Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions" (arXiv 2102.12122).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES, REDUCTION_NAMES
from ommatid.models.reference import position_map, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import SpatialReductionAttention
from ommatid.nn.mixers.spatial_reduction import strided_reduction
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.ops.resize import resample


@dataclass(frozen=True, kw_only=True)
class PVTConfig(Config):
    """Four stages. `image_size` is that of the position tables; they are resized to the map of any other image."""

    image_size: int = 224
    patch_size: int = 4
    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    qkv_bias: bool = True

    def check(self) -> None:
        require(len(self.dims) == 4, "dims", self.dims, "four widths, one for each stage")
        require_stages(
            dims=self.dims, depths=self.depths, heads=self.heads, mlp_ratios=self.mlp_ratios, sr_ratios=self.sr_ratios
        )
        require_divisible(self.dims, self.heads)
        require_positive(patch_size=self.patch_size, sr_ratios=self.sr_ratios)
        require(self.sr_ratios[-1] == 1, "sr_ratios", self.sr_ratios, "1 in the last stage, which has a class token")
        smallest = max(self.patch_size, 32)
        require(self.image_size >= smallest, "image_size", self.image_size, f"at least {smallest}")

    @property
    def smallest_image(self) -> int:
        """The shortest side that leaves every reduced map a cell."""
        return max(self.patch_size * 2**stage * ratio for stage, ratio in enumerate(self.sr_ratios))

    def table_side(self, stage: int) -> int:
        """Side of a stage's square position table; from the second stage on it presumes patches of 4 x 4."""
        return self.image_size // 2 ** (stage + 1) // 2 if stage else self.image_size // self.patch_size


@register("pvt", PVTConfig)
class PVT(Backbone):
    """Pyramid Vision Transformer, version 1. Takes any image of at least one cell in each (reduced) map.

    Sides round down. A class token joins in the last stage; its features are those of the other tokens.
    """

    config: PVTConfig
    no_decay = ("class_token",)

    def __init__(self, config: PVTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(config.patch_size, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stages = nn.ModuleList(
            Stage(pvt_embed(config, i), [pvt_block(config, i, drop_path=rate) for rate in rates[i]])
            for i in range(len(dims))
        )
        self.class_token = nn.Parameter(torch.zeros(1, 1, dims[-1]))
        self.class_position = nn.Parameter(torch.zeros(1, 1, dims[-1]))
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.class_position, std=0.02)

    def maps(self, image: Tensor) -> list[Tensor]:
        maps, patches, tokens = self._run(image)
        return [*maps, tokens[:, 1:].view(patches.shape)]

    def embed(self, image: Tensor) -> Tensor:
        _, _, tokens = self._run(image)
        return self.norm(tokens[:, 0])

    def _run(self, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The first three maps, the patches that enter the last stage, and its tokens (B, 1 + N, D), class first."""
        require_at_least(image, self.config.smallest_image)
        *others, last = self.stages
        assert isinstance(last, Stage)
        maps = pyramid(others, channels_last(image))
        patches = last.downsample(maps[-1])
        first = (self.class_token + self.class_position).expand(patches.shape[0], -1, -1)
        return maps, patches, last.blocks(torch.cat([first, patches.flatten(1, 2)], dim=1))


def pvt_embed(config: PVTConfig, stage: int) -> nn.Sequential:
    """Patches of a stage's map, normed, with their positions."""
    dim, in_dim = config.dims[stage], config.dims[stage - 1] if stage else config.in_channels
    embed = PatchEmbed(in_dim, dim, 2 if stage else config.patch_size, norm=nn.LayerNorm(dim))
    return nn.Sequential(embed, StretchedPosition(config.table_side(stage), dim, unstretched=config.table_side(0) ** 2))


class StretchedPosition(nn.Module):
    """Adds a square table of positions, resized bilinearly to the map: (B, H, W, C) -> (B, H, W, C).

    Args:
        side: of the table.
        dim: C.
        unstretched: a map with this many tokens, if it is the table's number too, takes the table row by row as it
            is, whatever the map's sides (the reference compares with the first stage, in every stage).
    """

    def __init__(self, side: int, dim: int, *, unstretched: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, side, side, dim))
        self.unstretched = unstretched
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        size = (features.shape[1], features.shape[2])
        if size[0] * size[1] == self.unstretched == self.table.shape[1] ** 2:
            return features + self.table.view(1, *size, -1)
        return features + resample(self.table, size, mode="bilinear")


def pvt_block(config: PVTConfig, stage: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    reduction = strided_reduction(dim, config.sr_ratios[stage])
    mixer = SpatialReductionAttention(dim, config.heads[stage], reduction, qkv_bias=config.qkv_bias)
    mlp = MLP(dim, int(dim * config.mlp_ratios[stage]))
    return Block(dim, mixer, mlp, norm=LayerNorm, drop_path=drop_path)


TINY = PVTConfig()

VARIANTS = {
    "pvt_tiny": TINY,
    "pvt_small": TINY.replace(depths=(3, 4, 6, 3)),
    "pvt_medium": TINY.replace(depths=(3, 4, 18, 3)),
    "pvt_large": TINY.replace(depths=(3, 8, 27, 3)),
}

REFERENCE_NAMES = [
    (r"^cls_token$", "class_token"),
    (r"^pos_embed(\d+)$", zero_based("stages.{}.downsample.1.table")),
    (r"^patch_embed(\d+)\.", zero_based("stages.{}.downsample.0.")),
    *PVT_STAGE_NAMES,
    *REDUCTION_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: PVT) -> dict[str, Tensor]:
    """Separates the class token's position from the last table, and gives every table two axes."""
    if "pos_embed4" in state:
        last = state["pos_embed4"]
        state = state | {"class_position": last[:, :1], "pos_embed4": last[:, 1:]}
    for stage in range(len(model.config.dims)):
        side = model.config.table_side(stage)
        state = position_map(state, f"pos_embed{stage + 1}", (side, side))
    return state
