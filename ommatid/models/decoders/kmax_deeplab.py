"""The head of kMaX-DeepLab, as published: four maps of a backbone in, clusters of pixels with classes out.

"k-means Mask Transformer" (arXiv 2207.04044).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.decoders.axial_pixels import EXPANSION, AxialPixels, PixelBlock
from ommatid.models.decoders.kmeans_queries import KMeansQueries, MaskPredictor, full_size
from ommatid.models.decoders.masked_attention import Prediction
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.axial_attention import AxialAttention
from ommatid.nn.conv import ConvNorm

MOMENTUM = 0.01
"""Of all batch norms."""


@dataclass(frozen=True, kw_only=True)
class KMaxHeadConfig(PartConfig):
    """`pixel_*` are widths, numbers and kinds of the pixel decoder's blocks, on the coarsest map first.

    `depths` are the numbers of k-means layers on the three coarsest maps, the coarsest first.
    """

    pixel_depths: tuple[int, int, int, int] = (1, 5, 1, 1)
    pixel_dims: tuple[int, int, int, int] = (512, 256, 128, 64)
    pixel_blocks: tuple[PixelBlock, PixelBlock, PixelBlock, PixelBlock] = ("axial", "axial", "bottleneck", "bottleneck")
    depths: tuple[int, int, int] = (2, 2, 2)
    num_queries: int = 128
    num_classes: int = 133

    def check(self) -> None:
        require_positive(
            pixel_depths=self.pixel_depths,
            pixel_dims=self.pixel_dims,
            num_queries=self.num_queries,
            num_classes=self.num_classes,
        )
        require(min(self.depths) >= 0, "depths", self.depths, "numbers of layers, 0 or more")
        for dim, kind in zip(self.pixel_dims, self.pixel_blocks, strict=True):
            heads_fit = kind != "axial" or dim % 8 == 0
            require(heads_fit, "pixel_dims", self.pixel_dims, "multiples of 8, the heads, where blocks are axial")


@dataclass(frozen=True, kw_only=True)
class KMaxDeepLabConfig(KMaxHeadConfig):
    """`image_size` is the image that the maps come from: sides in cells are sides / stride, up where odd."""

    image_size: int | tuple[int, int] = 1281
    in_channels: tuple[int, int, int, int] = (256, 512, 1024, 2048)

    def check(self) -> None:
        super().check()
        require_positive(in_channels=self.in_channels)


class KMaxHead(nn.Module):
    """Maps fine to coarse, (B, H_i, W_i, C_i) -> predictions inside each layer and at last."""

    def __init__(self, config: KMaxHeadConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.pixels = AxialPixels(channels, config.pixel_dims, config.pixel_depths, config.pixel_blocks)
        widths = [EXPANSION * dim for dim in config.pixel_dims]
        self.queries = KMeansQueries(widths, config.depths, config.num_queries, config.num_classes)
        init_(self)

    def forward(self, maps: list[Tensor]) -> list[Prediction]:
        return self.queries(self.pixels(maps))[0]


def init_(head: nn.Module) -> None:
    """Weights as published; batch norms that begin at 0 are made so where they are."""
    for module in head.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = MOMENTUM
        if isinstance(module, nn.Conv2d):
            init_conv_(module)
    for module in head.modules():
        if isinstance(module, AxialAttention):
            nn.init.trunc_normal_(module.qkv.conv.weight, std=module.qkv.conv.in_channels**-0.5)
        if isinstance(module, MaskPredictor):
            nn.init.trunc_normal_(module.mask_head.conv.weight, std=0.01)
            nn.init.trunc_normal_(module.class_head.weight, std=0.01)
            nn.init.zeros_(module.class_head.bias)
            nn.init.constant_(module.mask_norm.weight, 0.1)
    for name, module in head.named_modules():
        if isinstance(module, ConvNorm) and name.endswith((".value", "queries.qkv")):
            nn.init.trunc_normal_(module.conv.weight, std=module.conv.in_channels**-0.5)


def init_conv_(conv: nn.Conv2d) -> None:
    if conv.groups > 1:
        nn.init.xavier_uniform_(conv.weight)
    else:
        nn.init.trunc_normal_(conv.weight, std=math.sqrt(2 / conv.in_channels))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


@register("kmax_deeplab", KMaxDeepLabConfig)
class KMaxDeepLab(Model):
    """res2 to res5, (B, C_i, H_i, W_i) -> the last prediction, and those inside each layer at their own sizes.

    class_logits (B, Q, K + 1), the last for "no object", and mask_logits (B, Q, h, w) at the size of res2;
    layer_class_logits{i} and layer_mask_logits{i} are those inside layer i. Maps of any size up to 255 cells a side.
    """

    config: KMaxDeepLabConfig
    no_decay = ("_position", "centres")

    def __init__(self, config: KMaxDeepLabConfig) -> None:
        super().__init__(config)
        self.head = KMaxHead(config, config.in_channels)

    def forward(self, res2: Tensor, res3: Tensor, res4: Tensor, res5: Tensor) -> dict[str, Tensor]:
        maps = [channels_last(level) for level in (res2, res3, res4, res5)]
        return named_predictions(self.head(maps))


def named_predictions(predictions: list[Prediction]) -> dict[str, Tensor]:
    *layers, (class_logits, mask_logits) = predictions
    outputs = {"class_logits": class_logits, "mask_logits": mask_logits}
    for index, (classes, masks) in enumerate(layers):
        outputs |= {f"layer_class_logits{index}": classes, f"layer_mask_logits{index}": masks}
    return outputs


def reference_outputs(model: KMaxDeepLab, **maps: Tensor) -> dict[str, Tensor]:
    levels = [channels_last(maps[name]) for name in ("res2", "res3", "res4", "res5")]
    memories = model.head.pixels(levels)
    predictions, centres = model.head.queries(memories)
    outputs = named_predictions(predictions)
    size = (levels[0].shape[1], levels[0].shape[2])
    outputs |= {f"aux_mask_logits{i}": full_size(masks, size) for i, (_, masks) in enumerate(predictions[:-1])}
    outputs |= {f"memory{i}": memory.permute(0, 3, 1, 2) for i, memory in enumerate(memories[:3])}
    return outputs | {"queries": centres[:, 0].mT}


R50 = KMaxDeepLabConfig()

VARIANTS = {
    "kmax_deeplab_r50": R50,
    "kmax_deeplab_convnext_tiny": R50.replace(in_channels=(96, 192, 384, 768)),
    "kmax_deeplab_convnext_large": R50.replace(in_channels=(192, 384, 768, 1536)),
}

REFERENCE_NAMES = [
    (r"^pixel_decoder\._in_norms\.", "head.pixels.norms."),
    (r"^pixel_decoder\._stages\.(\d)\._blocks\.", r"head.pixels.stages.\1."),
    (r"^pixel_decoder\._resized_fuses\.(\d)\._conv_bn_(low|high)\.", r"head.pixels.fuses.\1.\2.1."),
    (r"\._conv1_bn_act\.", ".narrow."),
    (r"\._conv2_bn_act\.", ".mix."),
    (r"\._conv3_bn\.", ".widen."),
    (r"\._shortcut\.", ".shortcut."),
    (r"\._attention\._height_axis\.", ".mix.0."),
    (r"\._attention\._width_axis\.", ".mix.1."),
    (r"\.qkv_transform\.conv\.", ".qkv.conv."),
    (r"\._batch_norm_qkv\.", ".qkv.norm."),
    (r"\._(query|key|value)_rpe\._embeddings\.weight$", r".\1_position"),
    (r"\._batch_norm_similarity\.", ".score_norm."),
    (r"\._batch_norm_retrieved_(?:output|value)\.", ".norm."),
    (r"^predictor\._cluster_centers\.weight$", "head.queries.centres"),
    (r"^predictor\._kmax_transformer_layers\.", "head.queries.layers."),
    (r"^predictor\._(class|mask)_embedding_projection\.", r"head.queries.\1_proj."),
    (r"^predictor\._predcitor\.", "head.queries.predictor."),
    (r"\._predcitor\.", ".predictor."),
    (r"\._pixel_space_head_conv0bnact\.", ".pixels.0."),
    (r"\._pixel_space_head_conv1bnact\.", ".pixels.1."),
    (r"\._pixel_space_head_last_convbn\.", ".pixels.2."),
    (r"\._transformer_mask_head\.", ".mask_head."),
    (r"\._transformer_class_head\.(?:conv\.)?", ".class_head."),
    (r"\._pixel_space_mask_batch_norm\.", ".mask_norm."),
    (r"\._query_conv1_bn_act\.", ".query."),
    (r"\._pixel_conv1_bn_act\.", ".pixel."),
    (r"\._query_qkv_conv_bn\.", ".qkv."),
    (r"\._pixel_v_conv_bn\.", ".value."),
    (r"\._query_conv3_bn\.", ".proj."),
    (r"\._query_ffn_conv1_bn_act\.", ".fc1."),
    (r"\._query_ffn_conv2_bn\.", ".fc2."),
    (r"\._kmeans_query_conv3_bn\.", ".cluster_proj."),
    (r"\._kmeans_query_batch_norm_retrieved_value\.", ".cluster_norm."),
    (r"\._query_self_attention\.", ".attention."),
]

REFERENCE_IGNORED = [r"^predictor\._auxiliary_semantic_predictor\."]


def convert_reference(state: dict[str, Tensor], model: KMaxDeepLab) -> dict[str, Tensor]:
    """Centres are stored as columns."""
    name = "predictor._cluster_centers.weight"
    return state | ({name: state[name].T} if name in state else {})
