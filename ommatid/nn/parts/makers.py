"""Parts that need more than numbers and words to be made, from numbers and words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ommatid.nn import mixers
from ommatid.nn.conv import depthwise_conv
from ommatid.nn.embed import PatchEmbed, PreNormMerging, conv_stem
from ommatid.nn.mbconv import FusedMBConv, MBConv
from ommatid.nn.mixers.masked_attention import GaussianMixtureMask
from ommatid.nn.mixers.self_guided import WINDOW
from ommatid.nn.mixers.spatial_reduction import strided_reduction
from ommatid.nn.mixers.ss2d import CrossScan, MultiScaleScan
from ommatid.nn.position import ConvPosition, dynamic_bias
from ommatid.nn.reparam import ReparamConv
from ommatid.nn.squeeze_excite import SqueezeExcite
from ommatid.ops.windows import pad_to_multiple


class ToMultiple(nn.Module):
    """Continues a map with zeros until its sides are multiples: (B, H, W, C) -> (B, H', W', C)."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        return pad_to_multiple(x, (self.multiple, self.multiple))


class Padded(ToMultiple):
    """The same before a mixer, cut off again after it: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, mixer: nn.Module, multiple: int) -> None:
        super().__init__(multiple)
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(super().forward(x))[:, : x.shape[1], : x.shape[2]]


class SelfSignificant(nn.Module):
    """Guided attention without a guide: a token is as significant as it is long. (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x, x.detach().float().square().sum(-1))


def token_mlp(dim: int, window_size: int, hidden: int) -> nn.Module:
    return mixers.Windowed(mixers.TokenMLP(window_size**2, hidden), _pair(window_size))


def token_linear(dim: int, window_size: int, *, bias: bool = True) -> nn.Module:
    return mixers.Windowed(mixers.TokenLinear(window_size**2, bias=bias), _pair(window_size))


def gated_token_mlp(dim: int, window_size: int, hidden: int, *, bias: bool = True) -> nn.Module:
    return mixers.Windowed(mixers.GatedTokenMLP(dim, window_size**2, hidden, bias=bias), _pair(window_size))


def spectral_gate(dim: int, window_size: int) -> nn.Module:
    return mixers.Windowed(mixers.SpectralGate(dim, _pair(window_size)), _pair(window_size))


def cascaded_group(
    dim: int, heads: int, window_size: int, *, key_dim: int = 16, kernel_sizes: Sequence[int] | None = None
) -> nn.Module:
    size, kernels = _pair(window_size), tuple(kernel_sizes or (3,) * heads)
    return mixers.Windowed(mixers.CascadedGroupAttention(dim, heads, key_dim, size, kernels), size)


def masked_attention(dim: int, heads: int, head_dim: int, window_size: int, *, kernels: int = 5) -> nn.Module:
    mask = GaussianMixtureMask(_pair(window_size), heads, kernels)
    attention = mixers.MaskedAttention(dim, heads, head_dim, mask=mask)
    return mixers.Windowed(attention, _pair(window_size))


def raft(dim: int, window_size: int, raft: int, *, expansion: int = 2) -> nn.Module:
    """Down the columns, then along the rows."""
    hidden = expansion * window_size * raft
    axes = [mixers.RaftMixer(window_size, raft, hidden, vertical=vertical) for vertical in (True, False)]
    return mixers.Windowed(nn.Sequential(*axes), _pair(window_size))


def wavelet(dim: int, hidden: int, mlp_dim: int, levels: int) -> nn.Module:
    return Padded(mixers.WaveletMixer(dim, hidden, mlp_dim, levels), 2**levels)


def guiding(dim: int, heads: int, ratio: int, *, qkv_bias: bool = True) -> nn.Module:
    return Padded(mixers.GuidingAttention(dim, heads, ratio, qkv_bias=qkv_bias), WINDOW[0] * math.ceil(ratio / 7))


def guided(dim: int, heads: int, ratio: Literal[2, 4, 8], *, qkv_bias: bool = True) -> nn.Module:
    """Its significance is the tokens' own: see `SelfSignificant`."""
    side = {2: 2, 4: 14, 8: 28}[ratio]
    return Padded(SelfSignificant(mixers.GuidedAttention(dim, heads, ratio, qkv_bias=qkv_bias)), side)


def spatial_reduction(dim: int, heads: int, reduction: int, *, qkv_bias: bool = True) -> nn.Module:
    reduce = strided_reduction(dim, reduction)
    return Padded(mixers.SpatialReductionAttention(dim, heads, reduce, qkv_bias=qkv_bias), reduction)


def recursive_generalization(dim: int, heads: int, *, channel_ratio: float = 0.5, qkv_bias: bool = True) -> nn.Module:
    """After training its recursion takes no map of less than 16 tokens a side."""
    attention = mixers.RecursiveGeneralizationAttention(dim, heads, channel_ratio=channel_ratio, qkv_bias=qkv_bias)
    return Padded(attention, 16)


def long_short(dim: int, heads: int, group_size: int, *, interval: int = 1, qkv_bias: bool = True) -> nn.Module:
    bias = dynamic_bias(_pair(group_size), heads, max(dim // 4 // 4, 4))
    return mixers.LongShortAttention(dim, heads, group_size, bias, interval=interval, qkv_bias=qkv_bias)


def window(dim: int, heads: int, window_size: int, *, shifted: bool = False, qkv_bias: bool = True) -> nn.Module:
    shift = window_size // 2 if shifted else 0
    return mixers.WindowAttention(dim, heads, window_size, shift=shift, qkv_bias=qkv_bias)


def cosine_window(dim: int, heads: int, window_size: int, *, shifted: bool = False) -> nn.Module:
    return mixers.cosine_window_attention(dim, heads, window_size, shift=window_size // 2 if shifted else 0)


def window_mlp(dim: int, heads: int, window_size: int, *, shifted: bool = False) -> nn.Module:
    return mixers.WindowMLP(dim, heads, window_size, shift=window_size // 2 if shifted else 0)


def ss2d(dim: int, inner_dim: int, *, state_dim: int = 1, multi_scale: bool = False) -> nn.Module:
    scan = (MultiScaleScan if multi_scale else CrossScan)(inner_dim, state_dim=state_dim)
    return mixers.SS2D(dim, inner_dim, scan)


def reparam_conv(dim: int, kernel_size: int) -> nn.Module:
    """Beside the large kernel a small one and the identity."""
    small = [(3, 1)] if kernel_size > 3 else []
    return ReparamConv(dim, [(kernel_size, 1), *small], identity=True)


def depthwise(dim: int, kernel_size: int) -> nn.Module:
    """A convolution of every channel by itself: (B, H, W, C) -> (B, H, W, C).

    What mixes the tokens in ConvNeXt (arXiv 2201.03545). Cost: K^2 H W C multiply-adds, with K = kernel_size.
    """
    return depthwise_conv(dim, kernel_size)


def nothing(dim: int) -> nn.Module:
    """No such part, and no residual branch around it. Cost: 0."""
    return nn.Identity()


def mbconv(dim: int, hidden: int, *, kernel_size: int = 3, excite: bool = False) -> nn.Module:
    gate = SqueezeExcite(hidden, max(hidden // 16, 4)) if excite else None
    return MBConv(dim, dim, hidden, kernel_size=kernel_size, act=nn.GELU(), gate=gate)


def fused_mbconv(dim: int, hidden: int, *, kernel_size: int = 3) -> nn.Module:
    return FusedMBConv(dim, dim, hidden, kernel_size=kernel_size, act=nn.GELU())


def overlap_conv_stem(in_dim: int, dim: int, stride: int) -> nn.Module:
    """Overlapping patches and a layer norm: 7x7 for stride 4. From PVT v2 (arXiv 2106.13797)."""
    kernel_size = max(2 * stride - 1, 3)
    return PatchEmbed(in_dim, dim, kernel_size, stride=stride, padding=kernel_size // 2, norm=nn.LayerNorm(dim))


def patch_stem(in_dim: int, dim: int, stride: int) -> nn.Module:
    """Patches side by side and a layer norm. From Swin Transformer (arXiv 2103.14030)."""
    return nn.Sequential(ToMultiple(stride), PatchEmbed(in_dim, dim, stride, norm=nn.LayerNorm(dim)))


def conv_stem_of_stride(in_dim: int, dim: int, stride: int) -> nn.Module:
    """3x3 convolutions of stride 2 with batch norms; the stride is a power of two. From LeViT (arXiv 2104.01136)."""
    return conv_stem(in_dim, dim, max(int(math.log2(stride)), 1))


def pre_norm_merging(in_dim: int, dim: int) -> nn.Module:
    return nn.Sequential(ToMultiple(2), PreNormMerging(in_dim, dim))


def conditional(size: tuple[int, int], dim: int) -> nn.Module:
    return ConvPosition(dim)


def _pair(side: int) -> tuple[int, int]:
    return side, side
