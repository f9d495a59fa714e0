"""DLGSANet: convolutions with kernels made on the spot, in turn with sparse attention between channels.

"DLGSANet: Lightweight Dynamic Local and Global Self-Attention Networks for Image Super-Resolution" (arXiv 2301.02031).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.names import SWINIR_NAMES
from ommatid.models.reference import changed, rename
from ommatid.models.registry import register
from ommatid.models.restorer import Restorer, Sides
from ommatid.nn.block import Block
from ommatid.nn.conv import Conv2d, depthwise_conv
from ommatid.nn.conv_glu import GatedConvMLP
from ommatid.nn.feedforward import MLP
from ommatid.nn.image_range import ImageRange
from ommatid.nn.mixers import DynamicConv, TransposedAttention
from ommatid.nn.residual_groups import ResidualGroups, residual_conv, residual_group
from ommatid.nn.upsample import Reconstruction, pixel_shuffle_direct, shuffle_factors

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True, kw_only=True)
class DLGSANetConfig(PartConfig):
    """A group has `blocks` pairs of a local and a global block.

    `group_channels` share a kernel of the dynamic convolution; `dynamic` false has one kernel a channel for all
    positions. `block_type` "edge" weighs channels by a softmax, "sparseedge" by `act`. `tlc_kernel` is the side of the
    tiles in which channels attend in evaluation, null for the whole map. A scale of 1 leaves the size.
    """

    dim: int = 48
    groups: int = 3
    blocks: int = 3
    kernel_size: int = 7
    group_channels: int = 6
    heads: int = 6
    mlp_ratio: float = 2.0
    block_type: Literal["sparseedge", "edge"] = "sparseedge"
    ffn_type: Literal["GDFN", "BaseFFN"] = "GDFN"
    dynamic: bool = True
    act: Literal["relu", "gelu", "sigmoid"] = "relu"
    scale: int = 2
    tlc_kernel: int | None = 96
    img_range: float = 1.0
    upsampler: Literal["pixelshuffledirect", "pixelshuffle"] = "pixelshuffledirect"
    body_norm: bool = False

    def check(self) -> None:
        require_positive(groups=self.groups, blocks=self.blocks, scale=self.scale, img_range=self.img_range)
        require(self.dim >= 4, "dim", self.dim, "4 or more")
        require(self.kernel_size > 0 and self.kernel_size % 2 == 1, "kernel_size", self.kernel_size, "odd and positive")
        require_divisible(self.dim, self.group_channels, "group_channels")
        require_divisible(self.dim, self.heads)
        require(int(self.dim * self.mlp_ratio) > 0, "mlp_ratio", self.mlp_ratio, f"at least 1 / {self.dim}")
        tiles = self.tlc_kernel is None or self.tlc_kernel > 0
        require(tiles, "tlc_kernel", self.tlc_kernel, "null, or a positive integer")
        if self.upsampler == "pixelshuffle":
            shuffle_factors(self.scale)


@register("dlgsanet", DLGSANetConfig)
class DLGSANet(Restorer):
    """Takes any picture. With `tlc_kernel` each picture of a batch is tiled by itself; the reference takes only one."""

    config: DLGSANetConfig
    no_decay = ("temperature",)

    def __init__(self, config: DLGSANetConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.scale = config.scale
        self.range = ImageRange(3, config.img_range)
        self.shallow = Conv2d(3, dim, 3, padding=1, bias=False)
        self.deep = ResidualGroups(
            dim,
            [residual_group(dim, group_blocks(config), residual_conv(dim, "1conv")) for _ in range(config.groups)],
            residual_conv(dim, "1conv"),
            norm=nn.LayerNorm if config.body_norm else nn.Identity,
        )
        upsampler = pixel_shuffle_direct if config.upsampler == "pixelshuffledirect" else Reconstruction
        self.reconstruction = upsampler(dim, 3, config.scale)

    def restore(self, image: Tensor) -> Tensor:
        return self.range.to_image(self.reconstruction(self.deep(self.shallow(self.range.to_map(image)))))

    def exported_sides(self) -> Sides:
        """With tiles those of more than one, along both axes."""
        return Sides() if self.config.tlc_kernel is None else Sides(shortest=self.config.tlc_kernel + 1)

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the output of each group, (B, C, H, W)."""
        return [features.permute(0, 3, 1, 2) for features in self.deep.maps(self.shallow(self.range.to_map(image)))]


def group_blocks(config: DLGSANetConfig) -> list[Block]:
    """Local and global blocks in turn."""
    mixers = [mixer(config) for _ in range(config.blocks) for mixer in (local_mixer, global_mixer)]
    return [Block(config.dim, mixer, channel_mixer(config)) for mixer in mixers]


def local_mixer(config: DLGSANetConfig) -> nn.Sequential:
    """A (dynamic) depthwise convolution between two projections."""
    dim, kernel_size = config.dim, config.kernel_size
    conv = (
        DynamicConv(dim, kernel_size, dim // config.group_channels)
        if config.dynamic
        else depthwise_conv(dim, kernel_size)
    )
    return nn.Sequential(
        OrderedDict(expand=nn.Linear(dim, dim, bias=False), conv=conv, proj=nn.Linear(dim, dim, bias=False))
    )


def global_mixer(config: DLGSANetConfig) -> TransposedAttention:
    act = ACTIVATIONS[config.act]() if config.block_type == "sparseedge" else None
    return TransposedAttention(config.dim, config.heads, act=act, tile=config.tlc_kernel)


def channel_mixer(config: DLGSANetConfig) -> nn.Module:
    make = GatedConvMLP if config.ffn_type == "GDFN" else MLP
    return make(config.dim, int(config.dim * config.mlp_ratio))


def at_all_scales(name: str, config: DLGSANetConfig) -> dict[str, DLGSANetConfig]:
    """The tiles are the larger the less the picture is enlarged."""
    tiles = {2: 96, 3: 72, 4: 48}
    return {f"{name}_x{scale}": config.replace(scale=scale, tlc_kernel=tile) for scale, tile in tiles.items()}


VARIANTS = {
    **at_all_scales("dlgsanet_tiny", DLGSANetConfig()),
    **at_all_scales("dlgsanet_light", DLGSANetConfig(groups=4)),
    **at_all_scales("dlgsanet", DLGSANetConfig(dim=90, groups=6, blocks=4)),
}

REFERENCE_NAMES = [
    (r"^overlap_embed\.0\.proj\.", "shallow."),
    (r"\.groups\.(\d+)\.body\.\d+\.(weight|bias)$", r".groups.\1.inner.conv.\2"),
    (r"\.groups\.(\d+)\.body\.", r".groups.\1.inner.blocks."),
    (r"\.norm[13]\.body\.", ".token.norm."),
    (r"\.norm[24]\.body\.", ".channel.norm."),
    (r"\.(norm_before|norm_behind)\.body\.", r".\1."),
    (r"\.IDynamicDWConv\.conv0\.", ".token.inner.expand."),
    (r"\.IDynamicDWConv\.conv1\.", ".token.inner.proj."),
    (r"\.IDynamicDWConv\.conv\.conv1\.(\d)\.", r".token.inner.conv.perceive.\1."),
    (r"\.IDynamicDWConv\.conv\.conv2\.0\.", ".token.inner.conv.kernels."),
    (r"\.IDynamicDWConv\.conv\.", ".token.inner.conv."),
    (r"\.restormer_attn\.qkv_dwconv\.", ".token.inner.conv."),
    (r"\.restormer_attn\.project_out\.", ".token.inner.proj."),
    (r"\.restormer_attn\.", ".token.inner."),
    (r"\.(?:IDynamic|restormer)_ffn\.(?:project_in|body\.0)\.", ".channel.inner.fc1."),
    (r"\.(?:IDynamic|restormer)_ffn\.(?:project_out|body\.2)\.", ".channel.inner.fc2."),
    (r"\.(?:IDynamic|restormer)_ffn\.dwconv\.", ".channel.inner.conv."),
    *SWINIR_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: DLGSANet) -> dict[str, Tensor]:
    """Names the numbered parts of the body, and has the groups of dynamic convolutions in the order of ours.

    The reference gives each kernel to neighbouring channels, we to all channels of one number modulo the groups.
    """
    config = model.config
    groups = [f"groups.{group}" for group in range(config.groups)]
    parts = ["norm_before", *groups, "norm_behind", "conv"] if config.body_norm else [*groups, "conv"]
    rules = [(rf"^deep_feature_extraction\.{number}\.", f"deep.{part}.") for number, part in enumerate(parts)]
    if config.upsampler == "pixelshuffledirect":
        rules.append((r"^upsample\.", "reconstruction."))
    if config.dynamic:
        count = config.dim // config.group_channels
        state = changed(state, r"\.IDynamicDWConv\.conv0\.weight$", partial(transposed_groups, count, 0))
        state = changed(state, r"\.IDynamicDWConv\.conv1\.weight$", partial(transposed_groups, count, 1))
        state = changed(state, r"\.IDynamicDWConv\.conv\.conv1\.0\.weight$", partial(transposed_groups, count, 1))
        state = changed(state, r"\.IDynamicDWConv\.conv\.conv2\.0\.", partial(transposed_groups, count, 0))
    return {rename(name, rules): value for name, value in state.items()}


def transposed_groups(groups: int, axis: int, value: Tensor) -> Tensor:
    """Orders an axis by member, then group, that was ordered by group, then member; one that does not split stays."""
    if value.shape[axis] % groups:
        return value
    return value.unflatten(axis, (groups, -1)).transpose(axis, axis + 1).flatten(axis, axis + 1)
