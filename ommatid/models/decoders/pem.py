"""The head of PEM, as published: four maps of a backbone in, masks with classes out.

"PEM: Prototype-based Efficient MaskFormer for Image Segmentation" (arXiv 2402.19422).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.decoders.masked_attention import Prediction
from ommatid.models.decoders.modulated_pixels import ModulatedPixels
from ommatid.models.decoders.prototype_queries import PrototypeDecoder
from ommatid.models.model import Model
from ommatid.models.names import MASK_QUERY_NAMES
from ommatid.models.registry import register


@dataclass(frozen=True, kw_only=True)
class PEMHeadConfig(PartConfig):
    """Numbers of the head alone: what it is, on any backbone. `conv_dim` is the width of the pixel decoder."""

    conv_dim: int = 128
    mask_dim: int = 256
    dim: int = 256
    heads: int = 8
    queries: int = 100
    ffn_dim: int = 2048
    decoder_layers: int = 6
    pre_norm: bool = True
    enforce_input_proj: bool = True
    num_classes: int = 19

    def check(self) -> None:
        require_positive(
            mask_dim=self.mask_dim, queries=self.queries, ffn_dim=self.ffn_dim, num_classes=self.num_classes
        )
        for name in ("conv_dim", "dim"):
            value = getattr(self, name)
            require(value > 0 and value % 2 == 0, name, value, "a positive even number")
        require_divisible(self.dim, self.heads)
        require(self.decoder_layers >= 0, "decoder_layers", self.decoder_layers, "0 or more")


@dataclass(frozen=True, kw_only=True)
class PEMConfig(PEMHeadConfig):
    in_dims: tuple[int, int, int, int] = (256, 512, 1024, 2048)

    def check(self) -> None:
        super().check()
        require_positive(in_dims=self.in_dims)


def pem_head(config: PEMHeadConfig, channels: tuple[int, ...]) -> tuple[ModulatedPixels, PrototypeDecoder]:
    """The two halves of the head, on maps of these widths."""
    queries = PrototypeDecoder(
        config.conv_dim,
        config.dim,
        config.mask_dim,
        config.num_classes,
        num_queries=config.queries,
        depth=config.decoder_layers,
        heads=config.heads,
        mlp_dim=config.ffn_dim,
        pre_norm=config.pre_norm,
        project=config.enforce_input_proj,
    )
    return ModulatedPixels(channels, config.conv_dim, config.mask_dim), queries


@register("pem", PEMConfig)
class PEM(Model):
    """res2 to res5, (B, C_i, H_i, W_i), each twice as large as the next -> predictions after the last layer and before.

    logits (B, Q, K + 1), the last for "no object", and masks (B, Q, H_2, W_2), raw logits; logits_{i} and masks_{i} are
    those before layer i.
    """

    config: PEMConfig
    no_decay = ("level", "query", "position")

    def __init__(self, config: PEMConfig) -> None:
        super().__init__(config)
        self.pixels, self.queries = pem_head(config, config.in_dims)

    def forward(self, res2: Tensor, res3: Tensor, res4: Tensor, res5: Tensor) -> dict[str, Tensor]:
        mask_features, memories = self.pixels([channels_last(level) for level in (res2, res3, res4, res5)])
        return numbered_predictions(self.queries(mask_features, memories))


def numbered_predictions(predictions: list[Prediction]) -> dict[str, Tensor]:
    """The last one as logits and masks, the earlier ones as logits_{i} and masks_{i}."""
    *earlier, (logits, masks) = predictions
    outputs = {"logits": logits, "masks": masks}
    for index, (classes, seen) in enumerate(earlier):
        outputs |= {f"logits_{index}": classes, f"masks_{index}": seen}
    return outputs


def reference_outputs(model: PEM, **maps: Tensor) -> dict[str, Tensor]:
    mask_features, memories = model.pixels([channels_last(maps[name]) for name in ("res2", "res3", "res4", "res5")])
    seen = dict(zip(("x_32", "x_16", "x_8"), memories, strict=True)) | {"mask_features": mask_features}
    outputs = {name: features.permute(0, 3, 1, 2) for name, features in seen.items()}
    return outputs | numbered_predictions(model.queries(mask_features, memories))


R50 = PEMConfig()
STDC = R50.replace(in_dims=(64, 256, 512, 1024))

VARIANTS = {
    "pem_r50_cityscapes": R50,
    "pem_r50_ade20k": R50.replace(num_classes=150),
    "pem_stdc_cityscapes": STDC,
    "pem_stdc_ade20k": STDC.replace(num_classes=150),
}

_STEP = r"^pixel_decoder\.dcn\.(\d)\."
_LAYERS = r"^predictor\.transformer_"
_CROSS = _LAYERS + r"cross_attention_layers\.(\d+)\."

REFERENCE_NAMES = [
    (r"^pixel_decoder\.in_projections\.", "pixels.projections."),
    (r"^pixel_decoder\.conv_avg\.", "pixels.context.proj."),
    (r"^pixel_decoder\.csm\.(\d)\.mlp\.0\.mlp\.0\.", r"pixels.modulations.\1.squeeze.conv."),
    (r"^pixel_decoder\.csm\.(\d)\.mlp\.0\.mlp\.1\.", r"pixels.modulations.\1.squeeze.norm."),
    (r"^pixel_decoder\.csm\.(\d)\.mlp\.0\.mlp\.3\.", r"pixels.modulations.\1.excite."),
    (_STEP + r"dcn_offset\.", r"pixels.steps.\1.conv.offsets."),
    (_STEP + r"dcn_bn\.", r"pixels.steps.\1.norm."),
    (_STEP + r"dcn\.", r"pixels.steps.\1.conv."),
    (_STEP + r"up_sample\.", r"pixels.steps.\1.enlarge."),
    (_STEP + r"up_bn\.", r"pixels.steps.\1.enlarge_norm."),
    (r"^pixel_decoder\.out\.", "pixels.mask_features."),
    (r"\.bn\.", ".norm."),
    (_CROSS + r"feature_proj\.norm\.", r"queries.blocks.\1.cross.norm."),
    (_CROSS + r"feature_proj\.to_query_3x3\.", r"queries.blocks.\1.cross.local."),
    (_CROSS + r"feature_proj\.out\.", r"queries.blocks.\1.cross.key."),
    (_CROSS + r"query_proj\.0\.", r"queries.blocks.\1.cross.query_norm."),
    (_CROSS + r"query_proj\.1\.", r"queries.blocks.\1.cross.query."),
    (_CROSS + r"proj\.", r"queries.blocks.\1.cross.mix."),
    (_CROSS + r"final\.", r"queries.blocks.\1.cross.proj."),
    (_CROSS + r"alpha$", r"queries.blocks.\1.cross.alpha"),
    (_LAYERS + r"self_attention_layers\.(\d+)\.self_attn\.", r"queries.blocks.\1.attention.inner.attention."),
    (_LAYERS + r"self_attention_layers\.(\d+)\.norm\.", r"queries.blocks.\1.attention.norm."),
    (_LAYERS + r"ffn_layers\.(\d+)\.linear(\d)\.", r"queries.blocks.\1.mlp.inner.fc\2."),
    (_LAYERS + r"ffn_layers\.(\d+)\.norm\.", r"queries.blocks.\1.mlp.norm."),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.out_proj\.", ".proj."),
    *MASK_QUERY_NAMES,
    (r"^predictor\.query_feat\.weight$", "queries.query"),
]
