"""VWFormer: a decoder that looks at each window's surroundings at three widths, for the price of the window.

"Multi-Scale Representations by Varying Window Attention for Semantic Segmentation" (arXiv 2404.16573).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import join_layers
from ommatid.models.registry import register
from ommatid.nn.conv import ConvNorm
from ommatid.nn.image_pool import ImagePool
from ommatid.nn.mixers.varying_window import GRID, SMALLEST, VaryingWindowAttention
from ommatid.ops.resize import resample

RATIOS = (2, 4, 8)
"""Of the sides of a context and its window."""

LOW_DIM = 48
"""Width of what the finest map adds at the end."""

Variant = Literal["ade20k", "cityscapes"]


class VWFormerDecoder(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> (B, H_0, W_0, dim).

    "Multi-Scale Representations by Varying Window Attention for Semantic Segmentation" (arXiv 2404.16573).

    Args:
        channels: C_i, at least two.
        dim: width of all but the finest map.
        heads: of the attentions; divides dim.
        variant: "ade20k" has linear embeddings, context of the whole image and norms behind the attentions;
            "cityscapes" has normed embeddings, enlarged without interpolation, and none of the others.
        short_cut: whether what the attentions read is added to what they say.
    """

    def __init__(
        self,
        channels: Sequence[int],
        dim: int,
        *,
        heads: int = 1,
        variant: Variant = "ade20k",
        short_cut: bool = False,
    ) -> None:
        super().__init__()
        require_divisible(dim, heads)
        linear = variant == "ade20k"
        self.short_cut = short_cut
        self.interpolation: Literal["bilinear", "nearest"] = "bilinear" if linear else "nearest"
        self.embeds = nn.ModuleList(
            nn.Linear(width, out_dim) if linear else normed(width, out_dim)
            for width, out_dim in zip(channels, [LOW_DIM] + [dim] * (len(channels) - 1), strict=True)
        )
        self.fuse = normed((len(channels) - 1) * dim, dim)
        self.local = normed(dim, dim)
        self.context = ImagePool(dim, dim) if linear else None
        self.scales = nn.ModuleList(
            VaryingWindowAttention(dim, heads, ratio, proj=ConvNorm(dim, dim, 1, scale=0.0) if linear else None)
            for ratio in RATIOS
        )
        self.join = normed((len(RATIOS) + 1 + linear) * dim, dim)
        self.enhance = normed(dim + LOW_DIM, dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if linear and isinstance(module, VaryingWindowAttention):
                nn.init.normal_(module.query.weight, std=0.01)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine, joined = self.embeds[0](maps[0]), self.join_scales(maps[1:])
        enlarged = resample(joined, (fine.shape[1], fine.shape[2]), mode="bilinear")
        return self.enhance(torch.cat([enlarged, fine], dim=-1))

    def join_scales(self, maps: Sequence[Tensor]) -> Tensor:
        """All maps but the finest -> what the scales say together, at the resolution of the first of them."""
        size = (maps[0].shape[1], maps[0].shape[2])
        levels = [
            resample(embed(level), size, mode=self.interpolation)
            for embed, level in zip(list(self.embeds)[1:], maps, strict=True)
        ]
        fused = self.fuse(torch.cat(levels[::-1], dim=-1))
        seen = [self.local(fused)]
        if self.context is not None:
            seen.append(self.context(fused).expand_as(fused))
        for scale in self.scales:
            seen.append(scale(fused) + fused if self.short_cut else scale(fused))
        return self.join(torch.cat(seen, dim=-1))


def normed(in_dim: int, dim: int) -> ConvNorm:
    return ConvNorm(in_dim, dim, 1, act=nn.ReLU())


@dataclass(frozen=True, kw_only=True)
class VWFormerConfig(PartConfig):
    """`in_dims` are the widths of the maps of stride 4 to 32."""

    variant: Variant = "ade20k"
    in_dims: tuple[int, int, int, int] = (96, 192, 384, 768)
    dim: int = 512
    heads: int = 1
    short_cut: bool = False
    num_classes: int = 150

    def check(self) -> None:
        require_positive(in_dims=self.in_dims, dim=self.dim, num_classes=self.num_classes)
        whole = self.dim % RATIOS[-1] ** 2 == 0
        require(whole, "dim", self.dim, f"a multiple of {RATIOS[-1] ** 2}, the cells of the widest context by key")
        require_divisible(self.dim, self.heads)


@register("vwformer", VWFormerConfig)
class VWFormer(Model):
    """c1 to c4, (B, C_i, H_i, W_i) of strides 4 to 32 -> logits (B, K, H_1, W_1).

    The sides of c2 are multiples of 8, and at least 16.
    """

    config: VWFormerConfig

    def __init__(self, config: VWFormerConfig) -> None:
        super().__init__(config)
        self.decoder = VWFormerDecoder(
            config.in_dims, config.dim, heads=config.heads, variant=config.variant, short_cut=config.short_cut
        )
        self.dropout = nn.Dropout2d(0.1)
        self.classifier = nn.Linear(config.dim, config.num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, c1: Tensor, c2: Tensor, c3: Tensor, c4: Tensor) -> Tensor:
        size = (c2.shape[2], c2.shape[3])
        fits = all(side % GRID == 0 and side >= GRID * SMALLEST for side in size)
        require(fits, "size of c2", size, f"multiples of {GRID} of at least {GRID * SMALLEST}")
        cells = self.decoder([channels_last(level) for level in (c1, c2, c3, c4)])
        dropped = self.dropout(cells.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.classifier(dropped).permute(0, 3, 1, 2)


def reference_outputs(model: VWFormer, **maps: Tensor) -> dict[str, Tensor]:
    scales = model.decoder.join_scales([channels_last(maps[name]) for name in ("c2", "c3", "c4")])
    return {"scales_every4": scales.permute(0, 3, 1, 2)[:, ::4], "logits": model(**maps)}


_ADE20K = VWFormerConfig(short_cut=True)
_CITYSCAPES = VWFormerConfig(variant="cityscapes", num_classes=19)
_BASE, _LARGE, _XLARGE = ((width, 2 * width, 4 * width, 8 * width) for width in (128, 192, 256))

VARIANTS = {
    "vwformer_swin_base_ade20k": _ADE20K.replace(in_dims=_BASE),
    "vwformer_swin_large_ade20k": _ADE20K.replace(in_dims=_LARGE),
    "vwformer_convnext_tiny_ade20k": _ADE20K.replace(short_cut=False),
    "vwformer_convnext_small_ade20k": _ADE20K.replace(heads=16),
    "vwformer_convnext_xlarge_ade20k": _ADE20K.replace(in_dims=_XLARGE),
    "vwformer_convnext_base_cityscapes": _CITYSCAPES.replace(in_dims=_BASE),
    "vwformer_convnext_tiny_cityscapes": _CITYSCAPES.replace(heads=16),
    "vwformer_convnext_large_cityscapes": _CITYSCAPES.replace(in_dims=_LARGE, heads=16),
    "vwformer_convnext_xlarge_cityscapes": _CITYSCAPES.replace(in_dims=_XLARGE, heads=16),
}

REFERENCE_NAMES = [
    (r"^linear_c(\d)\.(?:proj\.)?", lambda match: f"decoder.embeds.{int(match[1]) - 1}."),
    (r"^(?:linear_)?fuse\.", "decoder.fuse."),
    (r"^attn\.", "decoder.scales."),
    (r"^ds\.(\d)\.", r"decoder.scales.\1.narrow."),
    (r"^short_path\.", "decoder.local."),
    (r"^image_pool\.1\.", "decoder.context.proj."),
    (r"^cat\.", "decoder.join."),
    (r"^low_level_fuse\.", "decoder.enhance."),
    (r"^conv_seg\.", "classifier."),
    (r"\.key_value\.conv\.", ".key_value."),
    (r"\.theta\.conv\.", ".query."),
    (r"\.(?:conv_out|out_proj)\.", ".proj."),
    (r"\.bn\.", ".norm."),
]


def convert_reference(state: dict[str, Tensor], model: VWFormer) -> dict[str, Tensor]:
    """Keys and values are one layer here; of packed projections, the queries are a layer of their own."""
    converted: dict[str, Tensor] = {}
    for name, value in join_layers(state, ("phi", "g"), "key_value").items():
        owner, packed, leaf = name.partition(".in_proj_")
        if packed:
            query, key_value = value.split([len(value) // 3, len(value) - len(value) // 3])
            converted |= {f"{owner}.query.{leaf}": query, f"{owner}.key_value.{leaf}": key_value}
        else:
            converted[name] = value
    return converted
