"""MAXIM: gated MLPs along two axes, near and far, in a U-Net whose levels all see and gate each other.

"MAXIM: Multi-Axis MLP for Image Processing" (arXiv 2201.02973).
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.reference import from_flax, rename
from ommatid.models.registry import register
from ommatid.models.restorer import Restorer, mirrored
from ommatid.nn.all_levels import AllLevels
from ommatid.nn.conv import Conv2d, ConvTranspose2d
from ommatid.nn.cross_gating import CrossGating, init_cross_gating_
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_lecun_normal_, init_normal_
from ommatid.nn.mixers import multi_axis_gated_mlp
from ommatid.nn.mixers.multi_axis import MultiAxis
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import Residual
from ommatid.nn.squeeze_excite import SqueezeExcite
from ommatid.nn.supervised_attention import SupervisedAttention

GELU = partial(nn.GELU, approximate="tanh")


@dataclass(frozen=True, kw_only=True)
class MAXIMConfig(PartConfig):
    """Level i of a U-Net has 2^i * `dim` channels; the first `high_res_levels` have blocks and grids of their own.

    Below them grids are as large as blocks. `supervision_scales` is the number of sizes at which pictures come in and
    go out. The factors widen the multi-axis MLP and the gMLPs in it; `reduction` narrows the channel attention.
    """

    dim: int = 32
    depth: int = 3
    num_stages: int = 1
    num_groups: int = 2
    supervision_scales: int = 3
    high_res_levels: int = 2
    block_size_hr: tuple[int, int] = (16, 16)
    grid_size_hr: tuple[int, int] = (16, 16)
    block_size_lr: tuple[int, int] = (8, 8)
    bottleneck_blocks: int = 2
    block_factor: int = 2
    grid_factor: int = 2
    input_factor: int = 2
    reduction: int = 4
    use_bias: bool = True
    use_cross_gating: bool = True

    def check(self) -> None:
        positive = ("dim", "depth", "num_stages", "num_groups", "supervision_scales", "bottleneck_blocks")
        factors = ("block_factor", "grid_factor", "input_factor", "reduction")
        sizes = ("block_size_hr", "grid_size_hr", "block_size_lr")
        require_positive(**{name: getattr(self, name) for name in (*positive, *factors, *sizes)})
        require(self.high_res_levels >= 0, "high_res_levels", self.high_res_levels, "0 or more")
        scales = self.supervision_scales
        require(scales <= self.depth, "supervision_scales", scales, f"at most the depth ({self.depth})")
        require(self.reduction <= self.dim, "reduction", self.reduction, f"at most the width ({self.dim})")
        halves = self.dim * self.input_factor % 2 == 0
        require(halves, "input_factor", self.input_factor, f"what makes an even number of {self.dim} channels")
        half = self.dim * self.input_factor // 2
        for name in ("block_factor", "grid_factor"):
            factor = getattr(self, name)
            require(half * factor % 2 == 0, name, factor, f"what makes an even number of {half} channels")

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(self.dim * 2**level for level in range(self.depth))

    def block_and_grid(self, level: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of both at a level; the one after the last is the bottleneck."""
        high = level < min(self.high_res_levels, self.depth)
        return (self.block_size_hr, self.grid_size_hr) if high else (self.block_size_lr, self.block_size_lr)

    @property
    def multiple(self) -> tuple[int, int]:
        """What gives whole blocks and whole grids at every level."""
        sizes = [(2**level, size) for level in range(self.depth + 1) for size in self.block_and_grid(level)]
        rows, columns = (math.lcm(*(shrink * size[axis] for shrink, size in sizes)) for axis in (0, 1))
        return rows, columns


class StageMaps(NamedTuple):
    """What a stage makes, all channels-last, and each list finest first."""

    encoded: list[Tensor]
    bottom: Tensor
    decoded: list[Tensor]
    attended: list[Tensor]  # what the next stage reads of `decoded`; nothing in the last stage
    images: list[Tensor]


@register("maxim", MAXIMConfig)
class MAXIM(Restorer):
    """A row of U-Nets, each of which starts from the picture again and gates it by what the one before found.

    Pictures are mirrored up to whole blocks at the right and below; the authors' evaluation adds half on each side.
    """

    config: MAXIMConfig

    def __init__(self, config: MAXIMConfig) -> None:
        super().__init__(config)
        self.multiple = config.multiple
        last = config.num_stages - 1
        self.stages = nn.ModuleList(
            UNet(config, first=stage == 0, last=stage == last) for stage in range(config.num_stages)
        )
        self.apply(init_maxim_)

    def restore(self, image: Tensor) -> Tensor:
        return self.stage_maps(image)[-1].images[0].permute(0, 3, 1, 2)

    def restorations(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        stages = self.stage_maps(mirrored(image, self.multiple))
        return [
            answer.permute(0, 3, 1, 2)[..., : max(height >> scale, 1), : max(width >> scale, 1)]
            for maps in reversed(stages)
            for scale, answer in enumerate(maps.images)
        ]

    def stage_maps(self, image: Tensor) -> list[StageMaps]:
        """(B, 3, H, W), of whole blocks -> what each stage makes of it."""
        # The pixels in the middle of every 2 x 2, 4 x 4, ... square, rounded up.
        shrunk = [image[..., 2**i // 2 :: 2**i, 2**i // 2 :: 2**i] for i in range(self.config.supervision_scales)]
        images = [channels_last(size) for size in shrunk]
        stages: list[StageMaps] = []
        for unet in self.stages:
            stages.append(unet(images, stages[-1] if stages else None))
        return stages


class UNet(nn.Module):
    """One stage: encoder, bottleneck and decoder, with bridges that carry every level of the one to every other's.

    Args:
        first: whether no stage goes before.
        last: whether none follows.
    """

    def __init__(self, config: MAXIMConfig, *, first: bool, last: bool) -> None:
        super().__init__()
        self.use_cross_gating = config.use_cross_gating
        dims, bias, depth = config.dims, config.use_bias, config.depth
        levels, scales = range(depth), range(config.supervision_scales)
        above, below = (dims[0], *dims), (*dims[1:], dims[-1])

        self.inputs = nn.ModuleList(Conv2d(3, dims[i], 3, padding=1, bias=bias) for i in scales)
        self.fusions = nn.ModuleList(fusion(config, i) for i in ([] if first else scales))
        self.encoders = nn.ModuleList(
            refinement(config, above[i] + dims[i] if i in scales else above[i], i, conv_residual) for i in levels
        )
        self.gates = nn.ModuleList(cross_gating(config, i) for i in ([] if first else levels))
        self.downsamples = nn.ModuleList(Conv2d(dim, dim, 4, stride=2, padding=1, bias=bias) for dim in dims)
        self.bottleneck = nn.Sequential(
            *(refinement(config, dims[-1], depth, mlp_residual) for _ in range(config.bottleneck_blocks))
        )
        self.encoder_signals = nn.ModuleList(AllLevels(dims, i, levels, bias=bias) for i in levels)
        self.bridges = nn.ModuleList(bridge(config, i, below[i]) for i in levels)
        self.bridge_signals = nn.ModuleList(AllLevels(dims, i, levels[::-1], bias=bias) for i in levels)
        self.upsamples = nn.ModuleList(ConvTranspose2d(below[i], dims[i], 2, stride=2, bias=bias) for i in levels)
        self.decoders = nn.ModuleList(refinement(config, (1 + depth) * dims[i], i, conv_residual) for i in levels)
        self.answers = nn.ModuleList(Conv2d(dims[i], 3, 3, padding=1, bias=bias) for i in scales)
        self.attentions = nn.ModuleList(SupervisedAttention(dims[i], bias=bias) for i in ([] if last else scales))

    def forward(self, images: list[Tensor], before: StageMaps | None) -> StageMaps:
        """Images (B, H / 2^i, W / 2^i, 3), and what the stage before made of them."""
        encoded = self.encode([conv(image) for conv, image in zip(self.inputs, images, strict=True)], before)
        bottom = self.bottleneck(self.downsamples[-1](encoded[-1]))
        decoded = self.decode(self.bridge(encoded, bottom), bottom)
        answers = [conv(x) + image for conv, x, image in zip(self.answers, decoded, images, strict=False)]
        attended = [
            attention(x, answer) for attention, x, answer in zip(self.attentions, decoded, answers, strict=False)
        ]
        return StageMaps(encoded, bottom, decoded, attended, answers)

    def encode(self, shallow: list[Tensor], before: StageMaps | None) -> list[Tensor]:
        if before is not None:
            shallow = [self.fused(*maps) for maps in zip(self.fusions, shallow, before.attended, strict=True)]
        encoded: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = self.downsamples[level - 1](encoded[-1]) if level else shallow[0]
            x = encoder(torch.cat([x, shallow[level]], dim=-1) if level < len(shallow) else x)
            if before is not None:
                x, _ = self.gates[level](x, before.encoded[level] + before.decoded[level])
            encoded.append(x)
        return encoded

    def fused(self, fusion: nn.Module, shallow: Tensor, attended: Tensor) -> Tensor:
        """The new look at the picture with what the stage before made of its own."""
        if self.use_cross_gating:
            return fusion(shallow, attended)[0]
        return fusion(torch.cat([shallow, attended], dim=-1))

    def bridge(self, encoded: list[Tensor], bottom: Tensor) -> list[Tensor]:
        """What reaches the decoder of each level, guided from below where there is cross gating."""
        guide = bottom
        bridged: list[Tensor] = []
        for signal, gate in zip(reversed(self.encoder_signals), reversed(self.bridges), strict=True):
            if self.use_cross_gating:
                x, guide = gate(signal(encoded), guide)
            else:
                x = gate(signal(encoded))
            bridged.insert(0, x)
        return bridged

    def decode(self, bridged: list[Tensor], bottom: Tensor) -> list[Tensor]:
        x = bottom
        decoded: list[Tensor] = []
        steps = zip(self.upsamples, self.bridge_signals, self.decoders, strict=True)
        for upsample, signal, decoder in reversed(list(steps)):
            x = decoder(torch.cat([upsample(x), signal(bridged)], dim=-1))
            decoded.insert(0, x)
        return decoded


def refinement(
    config: MAXIMConfig, in_dim: int, level: int, local_residual: Callable[[MAXIMConfig, int], Residual]
) -> nn.Sequential:
    """A projection, then far and near mixing in turn under one skip: (B, H, W, C_in) -> (B, H, W, C)."""
    dim = config.dims[min(level, config.depth - 1)]
    block, grid = config.block_and_grid(level)
    groups = []
    for _ in range(config.num_groups):
        mixer = multi_axis_gated_mlp(
            dim,
            block,
            grid,
            input_factor=config.input_factor,
            window_factor=config.block_factor,
            grid_factor=config.grid_factor,
            bias=config.use_bias,
        )
        groups += [Residual(dim, mixer, norm=LayerNorm), local_residual(config, dim)]
    proj = nn.Linear(in_dim, dim, bias=config.use_bias)
    return nn.Sequential(OrderedDict(proj=proj, groups=Residual(dim, nn.Sequential(*groups), norm=nn.Identity)))


def conv_residual(config: MAXIMConfig, dim: int) -> Residual:
    """Two convolutions and channel attention: what mixes near pixels in encoders and decoders."""
    conv1, conv2 = (Conv2d(dim, dim, 3, padding=1, bias=config.use_bias) for _ in range(2))
    inner = OrderedDict(conv1=conv1, act=nn.LeakyReLU(0.2), conv2=conv2, gate=channel_attention(config, dim))
    return Residual(dim, nn.Sequential(inner), norm=LayerNorm)


def mlp_residual(config: MAXIMConfig, dim: int) -> Residual:
    """An MLP and channel attention: the same in the bottleneck, where pixels are few and large."""
    mlp = MLP(dim, dim, act=GELU(), bias=config.use_bias)
    return Residual(dim, nn.Sequential(OrderedDict(mlp=mlp, gate=channel_attention(config, dim))), norm=LayerNorm)


def channel_attention(config: MAXIMConfig, dim: int) -> SqueezeExcite:
    return SqueezeExcite(dim, dim // config.reduction, bias=config.use_bias)


def fusion(config: MAXIMConfig, level: int) -> nn.Module:
    dim = config.dims[level]
    return cross_gating(config, level) if config.use_cross_gating else nn.Linear(2 * dim, dim, bias=config.use_bias)


def cross_gating(
    config: MAXIMConfig, level: int, *, in_dim: int | None = None, guide_dim: int | None = None
) -> CrossGating:
    block, grid = config.block_and_grid(level)
    return CrossGating(config.dims[level], block, grid, in_dim=in_dim, guide_dim=guide_dim, bias=config.use_bias)


def bridge(config: MAXIMConfig, level: int, guide_dim: int) -> nn.Module:
    dim, bias = config.dims[level], config.use_bias
    if config.use_cross_gating:
        return cross_gating(config, level, in_dim=config.depth * dim, guide_dim=guide_dim)
    return nn.Sequential(nn.Linear(config.depth * dim, dim, bias=bias), Conv2d(dim, dim, 3, padding=1, bias=bias))


def init_maxim_(part: nn.Module) -> None:
    """For `model.apply`, which comes to a part after those inside it."""
    init_lecun_normal_(part)
    if isinstance(part, MultiAxis | MLP):
        part.apply(init_normal_)
    init_cross_gating_(part)


ONE_STAGE = MAXIMConfig()
WIDE = ONE_STAGE.replace(dim=64)

VARIANTS = {
    "maxim_1s": ONE_STAGE,
    "maxim_2s": ONE_STAGE.replace(num_stages=2),
    "maxim_3s": ONE_STAGE.replace(num_stages=3),
    "maxim_m1": WIDE,
    "maxim_m2": WIDE.replace(num_stages=2),
    "maxim_m3": WIDE.replace(num_stages=3),
}


def in_group(template: str, offset: int) -> Callable[[re.Match[str]], str]:
    """A replacement: far and near blocks, counted apart by the reference, alternate in ours."""
    return lambda match: template.format(2 * int(match[1]) + offset)


REFERENCE_NAMES = [
    (r"^stage_(\d+)_", r"stages.\1."),
    (r"\.encoder_block_(\d+)\.Conv_1\.", r".downsamples.\1."),
    (r"\.encoder_block_(\d+)\.cross_gating_block\.", r".gates.\1."),
    (r"\.encoder_block_", ".encoders."),
    (r"\.global_block_", ".bottleneck."),
    (r"\.cross_gating_block_", ".bridges."),
    (r"\.decoder_block_(\d+)\.ConvTranspose_0\.", r".upsamples.\1."),
    (r"\.decoder_block_(\d+)\.UNetEncoderBlock_0\.", r".decoders.\1."),
    (r"\.supervised_attention_module_(\d+)\.Conv_0\.", r".attentions.\1.value."),
    (r"\.supervised_attention_module_(\d+)\.Conv_1\.", r".answers.\1."),
    (r"\.supervised_attention_module_(\d+)\.Conv_2\.", r".attentions.\1.gate."),
    (r"\.input_conv_", ".inputs."),
    (r"\.input_(?:fuse_sam|catconv)_", ".fusions."),
    (r"\.output_conv_", ".answers."),
    # The multi-axis MLP.
    (r"\.SplitHeadMultiAxisGmlpLayer_(\d+)\.LayerNorm_in\.", in_group(".groups.inner.{}.norm.", 0)),
    (r"\.SplitHeadMultiAxisGmlpLayer_(\d+)\.", in_group(".groups.inner.{}.inner.", 0)),
    (r"\.GridGmlpLayer\.LayerNorm\.", ".grid.norm."),
    (r"\.GridGmlpLayer\.", ".grid.inner.mixer."),
    (r"\.BlockGmlpLayer\.LayerNorm\.", ".window.norm."),
    (r"\.BlockGmlpLayer\.", ".window.inner.mixer."),
    (r"\.(?:Grid|Block)GatingUnit\.intermediate_layernorm\.", ".norm."),
    (r"\.(?:Grid|Block)GatingUnit\.Dense_0\.", ".gate."),
    # What stands beside it.
    (r"\.channel_attention_block_1_?(\d+)\.LayerNorm\.", in_group(".groups.inner.{}.norm.", 1)),
    (r"\.channel_attention_block_1_?(\d+)\.", in_group(".groups.inner.{}.inner.", 1)),
    (r"\.channel_attention\.Conv_0\.", ".gate.fc1."),
    (r"\.channel_attention\.Conv_1\.", ".gate.fc2."),
    (r"\.channel_mixing\.Dense_0\.", ".mlp.fc1."),
    (r"\.channel_mixing\.Dense_1\.", ".mlp.fc2."),
    (r"\.(encoders|decoders|bottleneck)\.(\d+)\.(?:Conv_0|input_proj)\.", r".\1.\2.proj."),
    # Cross gating.
    (r"\.SplitHeadMultiAxisGating_([xy])\.LayerNorm_in\.", r".gating_\1.0."),
    (r"\.SplitHeadMultiAxisGating_([xy])\.Dense_0\.", r".gating_\1.1.grid.mixer."),
    (r"\.SplitHeadMultiAxisGating_([xy])\.Dense_1\.", r".gating_\1.1.window.mixer."),
    (r"\.SplitHeadMultiAxisGating_([xy])\.", r".gating_\1.1."),
    (r"\.LayerNorm_([xy])\.", r".expand_\1.0."),
    (r"\.in_project_([xy])\.", r".expand_\1.1."),
    (r"\.out_project_([xy])\.", r".reduce_\1."),
    (r"\.ConvTranspose_0\.", ".enlarge."),
    (r"\.Conv_0\.", ".project_x."),
    (r"\.Conv_1\.", ".project_y."),
    (r"\.in_project\.", ".fc1."),
    (r"\.out_project\.", ".fc2."),
]


def convert_reference(state: dict[str, Tensor], model: MAXIM) -> dict[str, Tensor]:
    """Places what the reference counts through all stages, coarsest level first; takes Flax's own layout, too."""
    depth = model.config.depth

    def signal(match: re.Match[str]) -> str:
        row, column = divmod(int(match[1]), depth)
        step, level = divmod(row, depth)
        stage, decoder = divmod(step, 2)
        kind = "bridge_signals" if decoder else "encoder_signals"
        return f"stages.{stage}.{kind}.{depth - 1 - level}.projections.{column}."

    def ungated_bridge(match: re.Match[str]) -> str:
        row, layer = divmod(int(match[1]), 2)
        stage, level = divmod(row, depth)
        return f"stages.{stage}.bridges.{depth - 1 - level}.{layer}."

    rules = [(r"^UpSampleRatio_(\d+)\.Conv_0\.", signal), (r"^Conv_(\d+)\.", ungated_bridge)]
    return {rename(name, rules): value for name, value in from_flax(state).items()}


def reference_outputs(model: MAXIM, image: Tensor) -> dict[str, Tensor]:
    """What the first stage sees at every level, and the answers of all stages at all sizes."""
    stages = model.stage_maps(image)
    maps = {f"encoder{level}": encoded for level, encoded in enumerate(stages[0].encoded)}
    answers = {
        f"image_stage{stage}_scale{scale}": answer
        for stage, made in enumerate(stages)
        for scale, answer in enumerate(made.images)
    }
    outputs = maps | answers | {"bottleneck": stages[0].bottom, "image": stages[-1].images[0]}
    return {name: output.permute(0, 3, 1, 2) for name, output in outputs.items()}
