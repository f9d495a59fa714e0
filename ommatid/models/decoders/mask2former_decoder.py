"""The head of Mask2Former, as published: four maps of a backbone in, masks with classes out.

"Masked-attention Mask Transformer for Universal Image Segmentation" (arXiv 2112.01527).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.deformable_pixels import GROUPS, DeformablePixels
from ommatid.models.decoders.masked_attention import MaskedAttentionDecoder, Prediction
from ommatid.models.model import Model
from ommatid.models.names import DEFORMABLE_NAMES, MASK_QUERY_NAMES, MASKED_ATTENTION_NAMES
from ommatid.models.registry import register


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig(PartConfig):
    """Numbers of the head alone: what it is, on any backbone.

    `conv_dim` is the width of the pixel decoder, `encoder_*` are its layers' fields; `dim` and the others are those of
    the queries. `encoder_levels` of the coarsest maps look into one another.
    """

    conv_dim: int = 256
    mask_dim: int = 256
    encoder_levels: int = 3
    encoder_layers: int = 6
    encoder_heads: int = 8
    encoder_mlp_dim: int = 1024
    norm: Literal["GN", ""] = "GN"
    dim: int = 256
    heads: int = 8
    mlp_dim: int = 2048
    decoder_layers: int = 9
    num_queries: int = 100
    num_classes: int = 133
    pre_norm: bool = False
    input_project: bool = False

    def check(self) -> None:
        require_positive(
            mask_dim=self.mask_dim,
            encoder_mlp_dim=self.encoder_mlp_dim,
            mlp_dim=self.mlp_dim,
            num_queries=self.num_queries,
            num_classes=self.num_classes,
        )
        require(self.encoder_levels in (2, 3), "encoder_levels", self.encoder_levels, "2 or 3")
        whole = self.conv_dim > 0 and self.conv_dim % GROUPS == 0
        require(whole, "conv_dim", self.conv_dim, f"a multiple of {GROUPS}, the groups of its norms")
        require(self.dim > 0 and self.dim % 2 == 0, "dim", self.dim, "an even number, for positions")
        require_divisible(self.conv_dim, self.encoder_heads, "encoder_heads")
        require_divisible(self.dim, self.heads)
        for name in ("encoder_layers", "decoder_layers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


@dataclass(frozen=True, kw_only=True)
class Mask2FormerDecoderConfig(MaskHeadConfig):
    in_channels: tuple[int, ...] = (256, 512, 1024, 2048)

    def check(self) -> None:
        super().check()
        four = len(self.in_channels) == 4 and min(self.in_channels) > 0
        require(four, "in_channels", self.in_channels, "four positive integers, those of the maps of stride 4 to 32")


def mask_head(config: MaskHeadConfig, channels: tuple[int, ...]) -> tuple[DeformablePixels, MaskedAttentionDecoder]:
    """The two halves of the head, on maps of these widths."""
    pixels = DeformablePixels(
        channels,
        config.conv_dim,
        config.mask_dim,
        levels=config.encoder_levels,
        depth=config.encoder_layers,
        heads=config.encoder_heads,
        mlp_dim=config.encoder_mlp_dim,
        norm=config.norm == "GN",
    )
    queries = MaskedAttentionDecoder(
        config.conv_dim,
        config.dim,
        config.mask_dim,
        config.num_classes,
        num_queries=config.num_queries,
        depth=config.decoder_layers,
        heads=config.heads,
        mlp_dim=config.mlp_dim,
        pre_norm=config.pre_norm,
        project=config.input_project,
    )
    return pixels, queries


@register("mask2former_decoder", Mask2FormerDecoderConfig)
class Mask2FormerDecoder(Model):
    """res2 to res5, (B, C_i, H_i, W_i) of any sizes -> the predictions after the last layer, and before each.

    class_logits (B, Q, K + 1), the last for "no object", and mask_logits (B, Q, h, w) at the size of res2;
    aux_class_logits{i} and aux_mask_logits{i} are those before layer i.
    """

    config: Mask2FormerDecoderConfig
    no_decay = ("level", "query", "position")

    def __init__(self, config: Mask2FormerDecoderConfig) -> None:
        super().__init__(config)
        self.pixels, self.queries = mask_head(config, config.in_channels)

    def forward(self, res2: Tensor, res3: Tensor, res4: Tensor, res5: Tensor) -> dict[str, Tensor]:
        mask_features, memories = self.pixels([channels_last(level) for level in (res2, res3, res4, res5)])
        return named_predictions(self.queries(mask_features, memories))


def named_predictions(predictions: list[Prediction]) -> dict[str, Tensor]:
    """The last one as class_logits and mask_logits, the earlier ones as aux_class_logits{i} and aux_mask_logits{i}."""
    *earlier, (class_logits, mask_logits) = predictions
    outputs = {"class_logits": class_logits, "mask_logits": mask_logits}
    for index, (classes, masks) in enumerate(earlier):
        outputs |= {f"aux_class_logits{index}": classes, f"aux_mask_logits{index}": masks}
    return outputs


def reference_outputs(model: Mask2FormerDecoder, **maps: Tensor) -> dict[str, Tensor]:
    mask_features, memories = model.pixels([channels_last(maps[name]) for name in ("res2", "res3", "res4", "res5")])
    outputs = named_predictions(model.queries(mask_features, memories))
    outputs |= {f"memory{index}": memory.permute(0, 3, 1, 2) for index, memory in enumerate(memories)}
    return outputs | {"mask_features": mask_features.permute(0, 3, 1, 2)}


R50 = Mask2FormerDecoderConfig()

VARIANTS = {
    "mask2former_decoder_r50": R50,
    "mask2former_decoder_r50_ade20k": R50.replace(num_classes=150),
    "mask2former_decoder_swin_tiny": R50.replace(in_channels=(96, 192, 384, 768)),
    "mask2former_decoder_swin_large": R50.replace(in_channels=(192, 384, 768, 1536), num_queries=200),
}

_ENCODER = r"^pixel_decoder\.transformer\.encoder\.layers\.(\d+)\."

REFERENCE_NAMES = [
    (r"^pixel_decoder\.input_proj\.", "pixels.encoder.projections."),
    (r"^pixel_decoder\.transformer\.level_embed$", "pixels.encoder.level"),
    (_ENCODER + r"self_attn\.", r"pixels.encoder.layers.\1.attention."),
    (_ENCODER + r"norm1\.", r"pixels.encoder.layers.\1.norm."),
    (_ENCODER + r"norm2\.", r"pixels.encoder.layers.\1.mlp.norm."),
    (_ENCODER + r"linear(\d)\.", r"pixels.encoder.layers.\1.mlp.inner.fc\2."),
    (r"^pixel_decoder\.mask_features\.", "pixels.mask_features."),
    *DEFORMABLE_NAMES,
    *MASKED_ATTENTION_NAMES,
    *MASK_QUERY_NAMES,
    (r"^predictor\.query_feat\.weight$", "queries.query"),
]


def convert_reference(state: dict[str, Tensor], model: Mask2FormerDecoder) -> dict[str, Tensor]:
    """The top-down joins are counted by the map they belong to, 1 for the finest; ours come coarse to fine."""
    joins = len(model.pixels.top_down)
    converted = {}
    for name, value in state.items():
        kind, _, leaf = name.removeprefix("pixel_decoder.").partition(".")
        label, _, number = kind.rpartition("_")
        if name.startswith("pixel_decoder.") and label in ("adapter", "layer"):
            conv, norm = ("lateral", "lateral_norm") if label == "adapter" else ("conv", "norm")
            part = leaf.replace("norm.", f"{norm}.") if leaf.startswith("norm.") else f"{conv}.{leaf}"
            name = f"pixels.top_down.{joins - int(number)}.{part}"
        converted[name] = value
    return converted
