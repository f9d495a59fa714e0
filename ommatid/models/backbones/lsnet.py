"""LSNet: see large, focus small. A large kernel perceives, a small dynamic one aggregates.

"LSNet: See Large, Focus Small" (arXiv 2503.23135).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, doubling_strides
from ommatid.models.config import Config, require, require_stages
from ommatid.models.names import LEVIT_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.nn.block import pyramid, pyramid_stages
from ommatid.nn.conv import ConvNorm
from ommatid.nn.embed import conv_stem
from ommatid.nn.feedforward import BatchNormMLP
from ommatid.nn.head import norm_classifier
from ommatid.nn.mixers import LargeSmallConv
from ommatid.nn.position import DistanceBias
from ommatid.nn.reparam import ReparamConv
from ommatid.nn.residual import Residual, stochastic_depth
from ommatid.nn.squeeze_excite import SqueezeExcite, rounded_width
from ommatid.ops.attention import attend


@dataclass(frozen=True, kw_only=True)
class LSNetConfig(Config):
    """Only the last stage has attention: the `heads` and `key_dims` of the others mean nothing.

    The drop path is on the dynamic convolution, attention and MLP branches.
    """

    image_size: int = 224
    dims: tuple[int, ...] = (64, 128, 256, 384)
    depths: tuple[int, ...] = (0, 2, 8, 10)
    heads: tuple[int, ...] = (3, 3, 3, 4)
    key_dims: tuple[int, ...] = (16, 16, 16, 16)
    distillation: bool = False

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads, key_dims=self.key_dims)
        require(self.image_size > 0 and self.image_size % 8 == 0, "image_size", self.image_size, "a multiple of 8")
        even = min(self.dims) > 0 and self.dims[0] % 4 == 0 and all(dim % 8 == 0 for dim in self.dims[:-1])
        require(even, "dims", self.dims, "multiples of 8; the last stage may have any width")
        require(min(self.depths) >= 0, "depths", self.depths, "0 blocks or more")
        require(self.heads[-1] > 0, "heads", self.heads, "at least 1 in the last stage")
        require(self.key_dims[-1] > 0, "key_dims", self.key_dims, "at least 1 in the last stage")

    @property
    def last_grid(self) -> tuple[int, int]:
        """Rows and columns of the last stage's map."""
        side = -(-self.image_size // 8 // 2 ** (len(self.dims) - 1))
        return side, side


@register("lsnet", LSNetConfig)
class LSNet(Backbone):
    """LSNet. With `distillation`, `model.head.both` gives the two logits.

    The attention's position biases follow `image_size`; for images of any other size they are resampled, as in the
    authors' dense prediction code. Sides round up.
    """

    config: LSNetConfig
    no_decay = ("table",)

    def __init__(self, config: LSNetConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(8, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stem = conv_stem(config.in_channels, dims[0], 3)
        self.stages = pyramid_stages(
            dims, rates, separable_downsample, lambda i, j, rate: lsnet_block(config, i, j, drop_path=rate)
        )
        self.head = norm_classifier(dims[-1], config.num_classes, distillation=config.distillation)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def separable_downsample(in_dim: int, dim: int) -> nn.Sequential:
    """(B, H, W, C_in) -> (B, ceil(H/2), ceil(W/2), C)."""
    return nn.Sequential(ConvNorm(in_dim, in_dim, 3, stride=2, groups=in_dim), ConvNorm(in_dim, dim, 1))


def lsnet_block(config: LSNetConfig, stage: int, index: int, *, drop_path: float) -> nn.Sequential:
    """Token mixer and MLP. Odd blocks mix dynamically, even ones by fixed small kernels and squeeze-and-excitation."""
    dim, last = config.dims[stage], len(config.dims) - 1
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if index % 2 == 0:
        parts["conv"] = ReparamConv(dim, [(3, 1), (1, 1)], identity=True)
        parts["gate"] = SqueezeExcite(dim, rounded_width(dim / 4))
    else:
        mixer = (
            ConvQueryAttention(dim, config.heads[stage], config.key_dims[stage], config.last_grid)
            if stage == last
            else LargeSmallConv(dim)
        )
        parts["mixer"] = Residual(dim, mixer, norm=nn.Identity, drop_path=drop_path)
    parts["mlp"] = Residual(dim, BatchNormMLP(dim, 2 * dim), norm=nn.Identity, drop_path=drop_path)
    return nn.Sequential(parts)


class ConvQueryAttention(nn.Module):
    """Self-attention whose queries pass a 3x3 depthwise convolution: (B, H, W, C) -> (B, H, W, C).

    Cost: H W (2 C K heads + 9 K heads + 2 C^2) + (H W)^2 (K heads + C) multiply-adds, with K = key_dim.

    Args:
        dim: C.
        heads: number of heads.
        key_dim: K, the width of queries and keys of one head.
        grid: rows and columns that the bias by distance is for; it is resampled for other maps.
    """

    def __init__(self, dim: int, heads: int, key_dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.grid, self.scale = heads, grid, key_dim**-0.5
        # The reference computes the width of a head in floating point and truncates it.
        value_dim = int(dim / (key_dim * heads) * key_dim)
        self.widths = [heads * key_dim, heads * key_dim, heads * value_dim]
        self.qkv = ConvNorm(dim, sum(self.widths), 1)
        self.query_conv = ConvNorm(heads * key_dim, heads * key_dim, 3, groups=heads * key_dim)
        self.bias = DistanceBias(grid, heads)
        self.proj = ConvNorm(heads * value_dim, dim, 1, scale=0.0)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).split(self.widths, dim=-1)
        heads = [part.flatten(1, 2).unflatten(-1, (self.heads, -1)) for part in (self.query_conv(query), key, value)]
        mixed = attend(*heads, bias=self.biases((x.shape[1], x.shape[2])), scale=self.scale)
        return self.proj(F.relu(mixed).unflatten(1, x.shape[1:3]))

    def biases(self, size: tuple[int, int]) -> Tensor:
        """(heads, N, N) for a map of `size`, N = H * W: resampled as one picture of queries by keys."""
        biases, tokens = self.bias(), size[0] * size[1]
        return biases if size == self.grid else F.interpolate(biases[None], size=(tokens, tokens), mode="bicubic")[0]


VARIANTS = {
    "lsnet_t": LSNetConfig(),
    "lsnet_s": LSNetConfig(dims=(96, 192, 320, 448), depths=(1, 2, 8, 10)),
    "lsnet_b": LSNetConfig(dims=(128, 256, 384, 512), depths=(4, 6, 8, 10)),
}

REFERENCE_NAMES = [
    (r"^blocks1\.", "stages.0.blocks."),
    # The later stages begin with the two convolutions that lead there.
    (r"^blocks(\d)\.([01])\.", zero_based("stages.{}.downsample.{}.")),
    (r"^blocks(\d)\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 2}."),
    (r"\.mixer\.conv\.", ".conv.branches.0."),
    (r"\.mixer\.conv1\.", ".conv.branches.1."),
    (r"\.mixer\.lkp\.cv(\d)\.", zero_based(".mixer.inner.perceive.{}.")),
    (r"\.mixer\.lkp\.norm\.", ".mixer.inner.perceive.4."),
    (r"\.mixer\.bn\.", ".mixer.inner.norm."),
    (r"\.mixer\.m\.", ".mixer.inner."),
    (r"\.dw\.", ".query_conv."),
    (r"\.ffn\.m\.", ".mlp.inner."),
    *LEVIT_NAMES,
]

REFERENCE_IGNORED = [r"\.attention_bias_idxs$"]
