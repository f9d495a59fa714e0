"""LITv2: no attention early; late, heads for high and for low frequencies; merging where a convolution says.

"Fast Vision Transformers with HiLo Attention" (arXiv 2205.13213).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_stages
from ommatid.models.names import BLOCK_NAMES, SWIN_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, pair, require_at_least, require_exactly
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mixers import HiLoAttention
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.ops.bilinear import sample_bilinear
from ommatid.ops.windows import pad_to_multiple


@dataclass(frozen=True, kw_only=True)
class LITv2Config(Config):
    """`dense` is the form for dense prediction: any image, a norm for the maps but the first, no classifier.

    `heads` and `window_sizes` mean nothing in stages without attention, `image_size` and `num_classes` nothing with
    `dense`.
    """

    image_size: int = 224
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int | None, ...] = (None, None, 12, 24)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    attention_stages: tuple[bool, ...] = (False, False, True, True)
    window_sizes: tuple[int | None, ...] = (None, None, 2, 1)
    alpha: float = 0.9
    dense: bool = False

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            attention_stages=self.attention_stages,
            window_sizes=self.window_sizes,
        )
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "from 0 to 1")
        for stage, dim in enumerate(self.dims):
            if self.attention_stages[stage]:
                require_divisible(dim, self.heads[stage] or 0)
                window = self.window_sizes[stage]
                require((window or 0) > 0, "window_sizes", self.window_sizes, "positive where there is attention")
        if not self.dense:
            self.check_maps()

    def check_maps(self) -> None:
        """Raises ValueError unless an image of `image_size` gives maps that merge evenly, of whole windows."""
        last = len(self.dims) - 1
        for stage in range(len(self.dims)):
            side = self.image_size // 4 // 2**stage
            multiple = (self.window_sizes[stage] or 1) if self.attention_stages[stage] else 1
            fits = side > 0 and side % multiple == 0 and (stage == last or side % 2 == 0)
            allowed = f"what makes the map of stage {stage}, {side} a side, even if it is merged, and whole windows"
            require(fits, "image_size", self.image_size, allowed)


@register("litv2", LITv2Config)
class LITv2(Backbone):
    """LITv2. Takes images of `image_size` only, in the dense form any.

    The dense form has no classifier; its embedding is the means of all its maps side by side. The authors train the
    weights of the convolutions called `offset` at a hundredth of the learning rate.
    """

    config: LITv2Config

    def __init__(self, config: LITv2Config) -> None:
        super().__init__(config)
        if not config.dense:
            self.image_sizes = ImageSizes(fixed=pair(config.image_size))
        dims, dense = config.dims, config.dense
        self.channels, self.strides = dims, doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = PatchEmbed(config.in_channels, dims[0], 4, norm=nn.LayerNorm(dims[0]))
        self.stages = pyramid_stages(
            dims, rates, DeformableMerging, lambda i, _, rate: litv2_block(config, i, drop_path=rate)
        )
        self.map_norms = nn.ModuleList(
            nn.LayerNorm(dim) if dense and i else nn.Identity() for i, dim in enumerate(dims)
        )
        self.norm = nn.Identity() if dense else nn.LayerNorm(dims[-1])
        self.head = nn.Identity() if dense else classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        for stage in self.stages:
            stage.get_submodule("blocks").apply(init_conv_fan_out_)

    @property
    def embed_dim(self) -> int:
        return sum(self.channels) if self.config.dense else self.channels[-1]

    def maps(self, image: Tensor) -> list[Tensor]:
        if self.config.dense:
            require_at_least(image, self.strides[-1] - 3)
        else:
            require_exactly(image, self.config.image_size)
        maps = pyramid(self.stages, self.stem(pad_to_multiple(channels_last(image), (4, 4))))
        return [norm(features) for norm, features in zip(self.map_norms, maps, strict=True)]

    def embed(self, image: Tensor) -> Tensor:
        maps = self.maps(image)
        pooled = maps if self.config.dense else maps[-1:]
        return torch.cat([self.norm(features).mean((1, 2)) for features in pooled], dim=-1)


def litv2_block(config: LITv2Config, stage: int, *, drop_path: float) -> nn.Sequential:
    """Attention, in the stages that have it, and an MLP: a residual branch each."""
    dim = config.dims[stage]
    branches: OrderedDict[str, nn.Module] = OrderedDict()
    heads, window = config.heads[stage], config.window_sizes[stage]
    if config.attention_stages[stage] and heads and window:
        mixer = HiLoAttention(dim, heads, window, alpha=config.alpha, qkv_bias=config.qkv_bias)
        branches["token"] = Residual(dim, mixer, drop_path=drop_path)
    branches["channel"] = Residual(dim, ConvMLP(dim, int(dim * config.mlp_ratio)), drop_path=drop_path)
    return nn.Sequential(branches)


class DeformableMerging(nn.Module):
    """A deformable 2x2 convolution of stride 2, batch norm, GELU: (B, H, W, C) -> (B, H // 2, W // 2, C_out).

    The convolution reads each cell of its patch where another convolution moves it; deformable convolutions are from
    arXiv 1703.06211. Cost: H W (C C_out + 12 C) multiply-adds.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.offset = Conv2d(dim, 8, 2, stride=2)
        self.merge = ConvNorm(dim, out_dim, 2, stride=2, padding=0, bias=True, act=nn.GELU())
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        # (B, h, w, row in patch, column in patch, direction) -> (B, 2 h, 2 w, direction)
        offsets = self.offset(features).float().unflatten(-1, (2, 2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        rows, columns = (torch.arange(side, device=features.device) for side in offsets.shape[1:3])
        cells = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        return self.merge(sample_bilinear(features, cells + offsets))


SMALL = LITv2Config()
MEDIUM = SMALL.replace(depths=(2, 2, 18, 2))
BASE = MEDIUM.replace(dims=(128, 256, 512, 1024), heads=(None, None, 16, 32))

VARIANTS = {
    "litv2_small": SMALL,
    "litv2_medium": MEDIUM,
    "litv2_base": BASE,
    "litv2_base_384": BASE.replace(image_size=384),
}

REFERENCE_NAMES = [
    (r"^norm(\d)\.", r"map_norms.\1."),
    (r"\.dconv\.conv_offset\.", ".offset."),
    (r"\.dconv\.", ".merge.conv."),
    (r"\.norm_layer\.", ".merge.norm."),
    (r"\.l_q\.", ".low_query."),
    (r"\.l_kv\.", ".low_key_value."),
    (r"\.l_proj\.", ".low_proj."),
    (r"\.h_qkv\.", ".high_qkv."),
    (r"\.h_proj\.", ".high_proj."),
    *SWIN_STAGE_NAMES,
    *BLOCK_NAMES,
]
