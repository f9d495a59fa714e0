"""Isomer: a frame and its optical flow, fused at every level by a transformer made for that level.

"Isomer: Isomerous Transformer for Zero-shot Video Object Segmentation" (arXiv 2308.06693).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.all_mlp import all_mlp
from ommatid.models.decoders.encoder import backbone_of
from ommatid.models.decoders.gathering_scattering import DROPOUT, GatheringScattering, init_conv_
from ommatid.models.model import Model
from ommatid.models.reference import changed, zero_based
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.residual import PostNormResidual
from ommatid.ops.resize import resample

LEVELS = 4
EXPANSION = 16


@dataclass(frozen=True, kw_only=True)
class IsomerConfig(PartConfig):
    """`part` "fusion" takes the maps of two encoders, of widths `in_dims`; "network" has two classifiers `backbone`.

    `points` are the tokens of the third level; the fourth has a quarter of them. The published code throws away what
    the two coarse levels read: that is `scattering` false.
    """

    part: Literal["fusion", "network"] = "fusion"
    in_dims: tuple[int, ...] = (96, 192, 384, 768)
    head_dim: int = 192
    ffn_dim_ratio: int = 8
    heads: int = 8
    blocks: int = 1
    points: int = 121
    threshold: float = 0.5
    scattering: bool = True
    backbone: str = "swin_tiny"

    def check(self) -> None:
        four = len(self.in_dims) == LEVELS and min(self.in_dims) > 0
        require(four, "in_dims", self.in_dims, "four positive integers, those of the maps of stride 4 to 32")
        require(self.head_dim >= 4, "head_dim", self.head_dim, "4 or more")
        require_positive(ffn_dim_ratio=self.ffn_dim_ratio, blocks=self.blocks)
        for dim in self.in_dims[2:]:
            require_divisible(dim, self.heads)
        require(self.points >= 4, "points", self.points, "4 or more: the coarsest level has a quarter of them")
        possible = 0.5 <= self.threshold < 1
        require(possible, "threshold", self.threshold, "from 0.5, below which a pixel would be both, up to 1")


class ContextSharing(nn.Module):
    """Fuses two maps (B, H, W, C) and tells every position of it the same about the whole: (B, H, W, C).

    Cost: H W ((2 + 2 r) C^2 + 2 C) + 32 C^2 multiply-adds, with r = hidden / C; attention of all to all would grow with
    the square of H W.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fuse = nn.Linear(2 * dim, dim)
        self.mask = nn.Linear(dim, 1)
        self.context = nn.Sequential(
            nn.Linear(dim, EXPANSION * dim), nn.LayerNorm(EXPANSION * dim), nn.ReLU(), nn.Linear(EXPANSION * dim, dim)
        )
        mlp = ConvMLP(dim, hidden, act=nn.ReLU())
        self.apply(init_conv_)
        nn.init.xavier_uniform_(mlp.fc1.weight)
        nn.init.xavier_uniform_(mlp.fc2.weight)
        init_conv_(mlp.conv)
        self.ffn = PostNormResidual(dim, nn.Sequential(mlp, nn.Dropout(DROPOUT)))

    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        fused = self.fuse(torch.cat([frame, flow], -1))
        share = self.mask(fused).flatten(1, 2).softmax(1)
        context = share.mT @ fused.flatten(1, 2)
        return self.ffn(fused + self.context(context)[:, None])


class SaliencyHead(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> logits (B, 4 W_0, 4 W_0, 1), a square whatever the maps are."""

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.levels = all_mlp(channels, dim)
        self.project = ConvNorm(dim, dim // 4, 3, act=nn.ReLU())
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = Conv2d(dim // 4, 1, 1)
        for part in (self.levels.fuse, self.project, self.classifier):
            part.apply(init_conv_)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        features = self.project(_doubled(self.levels(maps)))
        dropped = self.dropout(_doubled(features).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.classifier(dropped)


def _doubled(features: Tensor) -> Tensor:
    """As the reference has it, both sides become twice the width."""
    side = 2 * features.shape[2]
    return resample(features, (side, side), mode="bilinear")


@register("isomer", IsomerConfig)
class Isomer(Model):
    """Maps of a frame, x0 to x3, and of its flow, y0 to y3, (B, C_i, H_i, W_i) -> saliency logits (B, 1, 4 W_0, 4 W_0).

    Images are resized to squares beforehand. `saliency` makes a map of the original image's size of the logits.
    """

    config: IsomerConfig

    def __init__(self, config: IsomerConfig) -> None:
        super().__init__(config)
        ratio, fine, coarse = config.ffn_dim_ratio, config.in_dims[:2], config.in_dims[2:]
        self.sharing = nn.ModuleList(ContextSharing(dim, ratio * dim) for dim in fine)
        self.scattering = nn.ModuleList(
            GatheringScattering(
                dim,
                points,
                threshold=config.threshold,
                heads=config.heads,
                hidden=ratio * dim,
                depth=config.blocks,
            )
            for dim, points in zip(coarse, (config.points, config.points // 4), strict=True)
        )
        self.head = SaliencyHead(config.in_dims, config.head_dim)

    def forward(
        self, x0: Tensor, x1: Tensor, x2: Tensor, x3: Tensor, y0: Tensor, y1: Tensor, y2: Tensor, y3: Tensor
    ) -> Tensor:
        frame, flow = ([channels_last(level) for level in maps] for maps in ((x0, x1, x2, x3), (y0, y1, y2, y3)))
        return self.logits(frame, flow)

    def logits(self, frame: Sequence[Tensor], flow: Sequence[Tensor]) -> Tensor:
        """`forward`, of channels-last maps."""
        pairs = list(zip(frame, flow, strict=True))
        fine = [level(*pair) for level, pair in zip(self.sharing, pairs[:2], strict=True)]
        coarse = [self._coarse(level, *pair) for level, pair in zip(self.scattering, pairs[2:], strict=True)]
        return self.head([*fine, *coarse]).permute(0, 3, 1, 2)

    def _coarse(self, level: nn.Module, frame: Tensor, flow: Tensor) -> Tensor:
        assert isinstance(level, GatheringScattering)
        return level(frame, flow).features if self.config.scattering else level.fused(frame, flow)

    def idle_parameters(self) -> set[str]:
        """Without scattering, all of the coarse levels but what makes one map of two."""
        if self.config.scattering:
            return set()
        names = {name for name, _ in self.named_parameters() if name.startswith("scattering.")}
        return {name for name in names if ".fuse." not in name}


def saliency(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, h, w) -> (B, 1, H, W): how much each pixel belongs to the object, from 0 to 1 in every image."""
    score = F.interpolate(logits, size, mode="bilinear", align_corners=False).sigmoid()
    least, most = score.amin((2, 3), keepdim=True), score.amax((2, 3), keepdim=True)
    return (score - least) / (most - least + 1e-8)


@register_part("isomer", "network")
class IsomerNetwork(Model):
    """frame (B, 3, S, S), and flow (B, 3, S, S), drawn as a picture -> saliency logits (B, 1, S, S).

    Raises:
        ValueError: the backbone is no classifier, or its maps are not `in_dims` wide.
    """

    config: IsomerConfig

    def __init__(self, config: IsomerConfig) -> None:
        super().__init__(config)
        self.frame, self.flow = (backbone_of(config.backbone, config.in_dims) for _ in range(2))
        self.fusion = Isomer(config)

    def forward(self, frame: Tensor, flow: Tensor) -> Tensor:
        return self.fusion.logits(self.frame.maps(frame), self.flow.maps(flow))


def reference_outputs(model: Isomer, **maps: Tensor) -> dict[str, Tensor]:
    """Every level, as the published code (z) and as the paper (scattered) has it, and what the head makes of both."""
    frame, flow = ([channels_last(maps[f"{name}{level}"]) for level in range(LEVELS)] for name in "xy")
    pairs = list(zip(frame, flow, strict=True))
    fine = [level(*pair) for level, pair in zip(model.sharing, pairs[:2], strict=True)]
    coarse = [level(*pair) for level, pair in zip(model.scattering, pairs[2:], strict=True)]
    published = [*fine, *(level.fused for level in coarse)]
    outputs = {f"z{index}": level for index, level in enumerate(published)}
    outputs |= {f"heat{index}": level.heat for index, level in enumerate(coarse, start=2)}
    outputs |= {f"scattered{index}": level.features for index, level in enumerate(coarse, start=2)}
    outputs["logits"] = model.head(published)
    outputs["logits_scattered"] = model.head([*fine, *(level.features for level in coarse)])
    return {name: output.permute(0, 3, 1, 2) for name, output in outputs.items()}


VARIANTS = {
    "isomer_swin_tiny": IsomerConfig(),
    "isomer_mit_b0": IsomerConfig(in_dims=(32, 64, 160, 256), head_dim=64),
    "isomer_network_swin_tiny": IsomerConfig(part="network"),
}

REFERENCE_NAMES = [
    (r"^fusion_module([01])\.transformer_self_attention_layers\.0\.conv_mask\.", r"sharing.\1.mask."),
    (r"^fusion_module([01])\.transformer_self_attention_layers\.0\.channel_add_conv\.", r"sharing.\1.context."),
    (r"^fusion_module([01])\.transformer_ffn_layers\.0\.norm\.", r"sharing.\1.ffn.norm."),
    (r"^fusion_module([01])\.transformer_ffn_layers\.0\.linear(\d)\.", r"sharing.\1.ffn.inner.0.fc\2."),
    (r"^fusion_module([01])\.transformer_ffn_layers\.0\.dwconv\.dwconv\.", r"sharing.\1.ffn.inner.0.conv."),
    (r"^fusion_module([01])\.project\.", r"sharing.\1.fuse."),
    (r"^fusion_module2\.", "scattering.0."),
    (r"^fusion_module3\.", "scattering.1."),
    (r"\.generate_heat_map\.sal_conv\.", ".heat."),
    (r"\.fg_soft_weights\.", ".figure_weights."),
    (r"\.bg_soft_weights\.", ".ground_weights."),
    (r"^(scattering\.\d)\.project\.", r"\1.fuse."),
    (r"\.self_attention_layers\.(\d+)\.self_attn\.in_proj_", r".layers.\1.attention.qkv."),
    (r"\.self_attention_layers\.(\d+)\.self_attn\.out_proj\.", r".layers.\1.attention.proj."),
    (r"\.self_attention_layers\.(\d+)\.norm\.", r".layers.\1.attention_norm."),
    (r"\.ffn_layers\.(\d+)\.linear(\d)\.", r".layers.\1.mlp.fc\2."),
    (r"\.ffn_layers\.(\d+)\.dwconv\.dwconv\.weight$", r".layers.\1.mlp.kernel"),
    (r"\.ffn_layers\.(\d+)\.dwconv\.dwconv\.bias$", r".layers.\1.mlp.bias"),
    (r"\.ffn_layers\.(\d+)\.norm\.", r".layers.\1.mlp_norm."),
    (r"^decode_head\.linear_c(\d)\.proj\.", zero_based("head.levels.projections.{}.")),
    (r"^decode_head\.linear_fuse\.", "head.levels.fuse."),
    (r"^decode_head\.linear_project\.", "head.project."),
    (r"^decode_head\.linear_saliency_pred\.", "head.classifier."),
    (r"\.bn\.", ".norm."),
]

_OF_FIGURE = re.compile(r"\.fg_(?=self_attention_layers|ffn_layers)")
_OF_GROUND = re.compile(r"\.bg_(?=self_attention_layers|ffn_layers)")


def convert_reference(state: dict[str, Tensor], model: Isomer) -> dict[str, Tensor]:
    """Layers of figure and ground as pairs; the head reads the fine levels first."""
    single = {name: value for name, value in state.items() if not (_OF_FIGURE.search(name) or _OF_GROUND.search(name))}
    ground = {_OF_GROUND.sub(".", name): value for name, value in state.items() if _OF_GROUND.search(name)}
    for name, value in state.items():
        pair = _OF_FIGURE.sub(".", name)
        if pair != name and pair in ground:
            single[pair] = torch.stack([value, ground[pair]])
    return changed(single, r"linear_fuse\.conv\.weight$", lambda weight: torch.cat(weight.chunk(LEVELS, 1)[::-1], 1))
