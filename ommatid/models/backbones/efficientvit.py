"""EfficientViT: few attention blocks between many convolutions, and heads that share no channels.

"EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention" (arXiv 2305.07027).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import LEVIT_NAMES, SANDWICHED_MERGING_NAMES
from ommatid.models.registry import register
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.embed import conv_stem, sandwiched_merging
from ommatid.nn.feedforward import BatchNormMLP
from ommatid.nn.head import norm_classifier
from ommatid.nn.mixers import CascadedGroupAttention, Windowed
from ommatid.nn.reparam import depthwise_residual
from ommatid.nn.residual import Residual, stochastic_depth


@dataclass(frozen=True, kw_only=True)
class EfficientViTConfig(Config):
    """`kernel_sizes` are those of the convolutions on the queries, by head, the same in all stages.

    The drop path is on the attention and MLP branches.
    """

    image_size: int = 224
    dims: tuple[int, ...] = (64, 128, 192)
    depths: tuple[int, ...] = (1, 2, 3)
    heads: tuple[int, ...] = (4, 4, 4)
    key_dims: tuple[int, ...] = (16, 16, 16)
    window_sizes: tuple[int, ...] = (7, 7, 7)
    kernel_sizes: tuple[int, ...] = (5, 5, 5, 5)
    distillation: bool = False

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            key_dims=self.key_dims,
            window_sizes=self.window_sizes,
        )
        require(self.image_size > 0 and self.image_size % 16 == 0, "image_size", self.image_size, "a multiple of 16")
        require(self.dims[0] % 8 == 0 and min(self.dims) > 0, "dims", self.dims, "positive, the first a multiple of 8")
        require_divisible(self.dims, self.heads)
        require_positive(key_dims=self.key_dims, window_sizes=self.window_sizes)
        enough = len(self.kernel_sizes) >= max(self.heads) and all(size > 0 and size % 2 for size in self.kernel_sizes)
        require(enough, "kernel_sizes", self.kernel_sizes, f"an odd one for each of {max(self.heads)} heads")

    def stage_window(self, stage: int) -> tuple[int, int]:
        """Rows and columns of a stage's windows: those of the whole map where it is smaller."""
        side = min(-(-self.image_size // 16 // 2**stage), self.window_sizes[stage])
        return side, side


@register("efficientvit", EfficientViTConfig)
class EfficientViT(Backbone):
    """EfficientViT with cascaded group attention. With `distillation`, `model.head.both` gives the two logits.

    Windows follow `image_size`; images of any other size work too: maps are padded to whole windows.
    """

    config: EfficientViTConfig
    no_decay = ("table",)

    def __init__(self, config: EfficientViTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(16, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = conv_stem(config.in_channels, dims[0], 4)
        self.stages = pyramid_stages(
            dims, rates, sandwiched_merging, lambda i, _, rate: efficientvit_block(config, i, drop_path=rate)
        )
        self.head = norm_classifier(dims[-1], config.num_classes, distillation=config.distillation)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def efficientvit_block(config: EfficientViTConfig, stage: int, *, drop_path: float) -> nn.Sequential:
    """Attention between two pairs of a depthwise convolution and an MLP: each in a residual branch."""
    dim, heads, window = config.dims[stage], config.heads[stage], config.stage_window(stage)
    attention = CascadedGroupAttention(dim, heads, config.key_dims[stage], window, config.kernel_sizes[:heads])

    def branch(inner: nn.Module) -> Residual:
        return Residual(dim, inner, norm=nn.Identity, drop_path=drop_path)

    return nn.Sequential(
        OrderedDict(
            conv0=depthwise_residual(dim, scale=0.0),
            mlp0=branch(BatchNormMLP(dim, 2 * dim)),
            attention=branch(Windowed(attention, window)),
            conv1=depthwise_residual(dim, scale=0.0),
            mlp1=branch(BatchNormMLP(dim, 2 * dim)),
        )
    )


M0 = EfficientViTConfig()
M1 = M0.replace(dims=(128, 144, 192), heads=(2, 3, 3), kernel_sizes=(7, 5, 3, 3))

VARIANTS = {
    "efficientvit_m0": M0,
    "efficientvit_m1": M1,
    "efficientvit_m2": M1.replace(dims=(128, 192, 224), heads=(4, 3, 2)),
    "efficientvit_m3": M0.replace(dims=(128, 240, 320), heads=(4, 3, 4)),
    "efficientvit_m4": M1.replace(dims=(128, 256, 384), heads=(4, 4, 4)),
    "efficientvit_m5": M1.replace(dims=(192, 288, 384), depths=(1, 3, 4), heads=(3, 3, 4)),
}

REFERENCE_NAMES = [
    *SANDWICHED_MERGING_NAMES,
    (r"\.dw([01])\.m\.", r".conv\1.branches.0."),
    (r"\.ffn([01])\.m\.", r".mlp\1.inner."),
    (r"\.mixer\.m\.attn\.", ".attention.inner.mixer."),
    (r"\.qkvs\.", ".qkv."),
    (r"\.dws\.", ".query_conv."),
    *LEVIT_NAMES,
]

REFERENCE_IGNORED = [r"\.attention_bias_idxs$"]


def convert_reference(state: dict[str, Tensor], model: EfficientViT) -> dict[str, Tensor]:
    """Resizes the tables of distances of weights for another image size, as the authors' dense prediction code does."""
    sides = {stage + 1: model.config.stage_window(stage)[0] for stage in range(len(model.config.dims))}
    tables = {name: table for name, table in state.items() if name.endswith(".attention_biases")}
    return state | {name: resize_table(table, sides[int(name[len("blocks")])]) for name, table in tables.items()}


def resize_table(table: Tensor, side: int) -> Tensor:
    """(heads, s * s) -> (heads, side * side), bicubic over distances."""
    old = round(table.shape[1] ** 0.5)
    grid = table.view(1, -1, old, old)
    return table if old == side else F.interpolate(grid, size=(side, side), mode="bicubic").flatten(2)[0]
