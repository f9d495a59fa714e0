"""UniFormer: convolution mixes tokens where maps are large, attention where they are small; for images and videos.

"UniFormer: Unifying Convolution and Self-attention for Visual Recognition" (arXiv 2201.09450), "UniFormer: Unified
Transformer for Efficient Spatiotemporal Representation Learning" (arXiv 2201.04676).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.model import Model
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.conv import Conv3d, ConvNorm, depthwise_conv, depthwise_conv3d
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import BatchNorm
from ommatid.nn.position import ConvPosition
from ommatid.nn.residual import Residual, stochastic_depth

LOCAL_STAGES = 2
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True, kw_only=True)
class UniFormerConfig(Config):
    """Heads of the two attention stages are as many as `head_dim` fits into their widths.

    Images only: `conv_stem` has overlapping 3x3 convolutions for patches, and `layer_scale` acts in attention stages;
    `image_size` is what the model is meant for, and shapes nothing. Videos only: `split` attends along time before it
    attends inside frames, and `time_kernel` is that of the patches behind the first.
    """

    variant: Literal["image", "video"] = "image"
    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 8, 3)
    head_dim: int = 64
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    conv_stem: bool = False
    layer_scale: float | None = None
    image_size: int | tuple[int, int] = 224
    split: bool = False
    time_kernel: Literal[1, 3] = 1

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths)
        require(len(self.dims) == 4, "dims", self.dims, "four stages")
        require(min(self.dims) > 1, "dims", self.dims, "at least 2 channels")
        require_positive(head_dim=self.head_dim)
        attending = self.dims[LOCAL_STAGES:]
        require(min(attending) >= self.head_dim, "head_dim", self.head_dim, f"at most {min(attending)}")
        require_divisible(attending, [self.heads(dim) for dim in attending], "dims // head_dim")
        if self.variant == "video":
            require(not self.conv_stem, "conv_stem", self.conv_stem, "false for videos")
            require(self.layer_scale is None, "layer_scale", self.layer_scale, "null for videos")
        else:
            require(not self.split, "split", self.split, "false for images")

    def heads(self, dim: int) -> int:
        return dim // self.head_dim

    @property
    def part(self) -> str:
        """Which of the two models it is of, for the registry."""
        return self.variant


@register("uniformer", UniFormerConfig)
class UniFormer(Backbone):
    """UniFormer for images: any that leaves the last stage a cell."""

    config: UniFormerConfig

    def __init__(self, config: UniFormerConfig) -> None:
        super().__init__(config)
        require(config.variant == "image", "variant", config.variant, "'image' here")
        self.channels, self.strides = config.dims, doubling_strides(4, len(config.dims))
        self.stages = uniformer_stages(config)
        self.norm = BatchNorm(config.dims[-1])
        self.head = classifier(config.dims[-1], config.num_classes)
        init_attending_(self)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, 1 if self.config.conv_stem else self.strides[-1])
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self.maps(image)[-1]).mean((1, 2))


@register_part("uniformer", "video")
class VideoUniFormer(Model):
    """UniFormer for videos. Halves the frames, rounding up; sides round down to multiples of 32, at least one."""

    config: UniFormerConfig

    def __init__(self, config: UniFormerConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = config.dims, doubling_strides(4, len(config.dims))
        self.stages = uniformer_stages(config)
        self.norm = BatchNorm(config.dims[-1])
        self.head = classifier(config.dims[-1], config.num_classes)
        init_attending_(self)
        self.apply(init_along_time_)

    def maps(self, video: Tensor) -> list[Tensor]:
        """(B, in_channels, T, H, W) -> one (B, T', H_i, W_i, C_i) per stage, fine to coarse."""
        require(video.dim() == 5, "video", tuple(video.shape), "(batch, channels, frames, height, width)")
        require_at_least(video, self.strides[-1])
        return pyramid(self.stages, video.permute(0, 2, 3, 4, 1).contiguous())

    def features(self, video: Tensor) -> list[Tensor]:
        """(B, in_channels, T, H, W) -> one (B, C_i, T', H_i, W_i) per stage, views of channels-last maps."""
        return [features.permute(0, 4, 1, 2, 3) for features in self.maps(video)]

    def embed(self, video: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, D)."""
        return self.norm(self.maps(video)[-1]).mean((1, 2, 3))

    def forward(self, video: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, num_classes), or the embedding where num_classes is 0."""
        return self.head(self.embed(video))


def uniformer_stages(config: UniFormerConfig) -> nn.ModuleList:
    rates = stochastic_depth(config.drop_path_rate, config.depths)
    return nn.ModuleList(
        Stage(downsample(config, stage), [uniformer_block(config, stage, drop_path=rate) for rate in rates[stage]])
        for stage in range(len(config.dims))
    )


def downsample(config: UniFormerConfig, stage: int) -> nn.Module:
    in_dim, dim = config.dims[stage - 1] if stage else config.in_channels, config.dims[stage]
    stride = 2 if stage else 4
    if config.variant == "video":
        time = (config.time_kernel, 1) if stage else (3, 2)
        return nn.Sequential(OrderedDict(proj=VideoPatches(in_dim, dim, stride, time), norm=nn.LayerNorm(dim)))
    if not config.conv_stem:
        return PatchEmbed(in_dim, dim, stride, norm=nn.LayerNorm(dim))
    if stage:
        return ConvNorm(in_dim, dim, 3, stride=2, bias=True)
    return nn.Sequential(
        ConvNorm(in_dim, dim // 2, 3, stride=2, bias=True, act=nn.GELU()),
        ConvNorm(dim // 2, dim, 3, stride=2, bias=True),
    )


class VideoPatches(Conv3d):
    """Patches of K frames with no overlap in space: (B, T, H, W, C_in) -> (B, ceil(T / S), H // side, W // side, C).

    Args:
        in_dim: C_in.
        dim: C.
        side: in pixels or cells.
        time: K, odd, and S, the frames between patches.
    """

    def __init__(self, in_dim: int, dim: int, side: int, time: tuple[int, int]) -> None:
        (frames, step), sides = time, (side, side)
        super().__init__(in_dim, dim, (frames, *sides), stride=(step, *sides), padding=(frames // 2, 0, 0))


def uniformer_block(config: UniFormerConfig, stage: int, *, drop_path: float) -> nn.Sequential:
    dim, local = config.dims[stage], stage < LOCAL_STAGES
    axes: Literal[2, 3] = 3 if config.variant == "video" else 2
    branch = partial(
        Residual,
        dim,
        norm=BatchNorm if local else LayerNorm,
        layer_scale=None if local else config.layer_scale,
        drop_path=drop_path,
    )
    token = (
        branch(LocalMixer(dim, axes))
        if local
        else branch(divided_attention(config, dim, drop_path=drop_path), norm=nn.Identity)
        if config.split
        else branch(attention(config, dim))
    )
    channel = branch(MLP(dim, int(dim * config.mlp_ratio)))
    return nn.Sequential(OrderedDict(position=ConvPosition(dim, axes=axes), token=token, channel=channel))


def attention(config: UniFormerConfig, dim: int) -> Attention:
    return Attention(dim, config.heads(dim), qkv_bias=config.qkv_bias)


def divided_attention(config: UniFormerConfig, dim: int, *, drop_path: float) -> nn.Sequential:
    """Attention inside frames, on what attention along time, with a shortcut of its own, has added to."""
    along_time = Residual(dim, AlongTime(attention(config, dim)), norm=LayerNorm, drop_path=drop_path)
    inside_frames = InsideFrames(attention(config, dim))
    return nn.Sequential(OrderedDict(time=along_time, norm=LayerNorm(dim), space=inside_frames))


class LocalMixer(nn.Module):
    """A 5x5 (5x5x5 on three axes) depthwise convolution between linear layers: (B, ..., C) -> (B, ..., C).

    What UniFormer has for attention on large maps; nothing in it is nonlinear. Cost: H W (2 C^2 + 25 C) multiply-adds.
    """

    def __init__(self, dim: int, axes: Literal[2, 3]) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, dim)
        self.conv = depthwise_conv(dim, 5) if axes == 2 else depthwise_conv3d(dim, 5)
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.conv(self.proj_in(x)))

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.proj_in,)


class AlongTime(nn.Module):
    """A mixer of sequences, on the frames of each position by itself: (B, T, H, W, C) -> (B, T, H, W, C)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        by_position = x.permute(0, 2, 3, 1, 4)
        mixed = self.mixer(by_position.flatten(0, 2))
        return mixed.view(by_position.shape).permute(0, 3, 1, 2, 4)


class InsideFrames(nn.Module):
    """A mixer of maps, on each frame by itself: (B, T, H, W, C) -> (B, T, H, W, C)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x.flatten(0, 1)).view(x.shape)


def init_attending_(model: UniFormer | VideoUniFormer) -> None:
    """Linear layers of early stages are convolutions in the reference, and start as PyTorch's own do."""
    model.stages[LOCAL_STAGES:].apply(init_linear_)
    model.head.apply(init_linear_)


def init_along_time_(layer: nn.Module) -> None:
    """Attention along time starts without a say: its queries, keys and values are 0."""
    if isinstance(layer, AlongTime):
        attention = layer.mixer
        assert isinstance(attention, Attention)
        for parameter in attention.qkv.parameters():
            nn.init.zeros_(parameter)
        nn.init.ones_(attention.proj.weight)
        nn.init.zeros_(attention.proj.bias)


SMALL = UniFormerConfig()
BASE = UniFormerConfig(depths=(5, 8, 20, 7))
SMALL_PLUS = UniFormerConfig(depths=(3, 5, 9, 3), conv_stem=True)

VARIANTS = {
    "uniformer_small": SMALL,
    "uniformer_small_plus": SMALL_PLUS.replace(head_dim=32),
    "uniformer_small_plus_dim64": SMALL_PLUS,
    "uniformer_base": BASE,
    "uniformer_base_ls": BASE.replace(layer_scale=1e-6),
    "uniformer_small_video": SMALL.replace(variant="video", num_classes=400),
    "uniformer_base_video": BASE.replace(variant="video", num_classes=400),
}

REFERENCE_NAMES = [
    # Overlapping patches.
    (r"^patch_embed1\.proj\.0\.", "stages.0.downsample.0.conv."),
    (r"^patch_embed1\.proj\.1\.", "stages.0.downsample.0.norm."),
    (r"^patch_embed1\.proj\.3\.", "stages.0.downsample.1.conv."),
    (r"^patch_embed1\.proj\.4\.", "stages.0.downsample.1.norm."),
    (r"^patch_embed(\d)\.proj\.0\.", zero_based("stages.{}.downsample.conv.")),
    (r"^patch_embed(\d)\.proj\.1\.", zero_based("stages.{}.downsample.norm.")),
    *PVT_STAGE_NAMES,
    (r"\.pos_embed\.", ".position.conv."),
    (r"\.t_norm\.", ".token.inner.time.norm."),
    (r"\.t_attn\.", ".token.inner.time.inner.mixer."),
    (r"^stages\.([01])\.blocks\.(\d+)\.attn\.", r"stages.\1.blocks.\2.token.inner.conv."),
    (r"\.conv1\.", ".token.inner.proj_in."),
    (r"\.conv2\.", ".token.inner.proj_out."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: UniFormer | VideoUniFormer) -> dict[str, Tensor]:
    """In blocks that attend along time first, all of the attention is inside one branch."""
    inside_frames = {".norm1.": ".token.inner.norm.", ".attn.": ".token.inner.space.mixer."}

    def renamed(name: str) -> str:
        for theirs, ours in inside_frames.items():
            block, found, leaf = name.partition(theirs)
            if found and f"{block}.t_norm.weight" in state:
                return f"{block}{ours}{leaf}"
        return name

    return {renamed(name): value for name, value in state.items()}
