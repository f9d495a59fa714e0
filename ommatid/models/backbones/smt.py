"""SMT: convolutions of several sizes weigh the values in early stages, attention mixes them in late ones.

"Scale-Aware Modulation Meet Transformer" (arXiv 2307.08579).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES
from ommatid.models.reference import join_layers, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.conv import ConvNorm, depthwise_conv
from ommatid.nn.embed import PatchEmbed, overlapping_merging
from ommatid.nn.feedforward import ConvMLP
from ommatid.nn.init import init_conv_fan_out_, init_linear_, init_pointwise_fan_out_
from ommatid.nn.mixers import Attention, ScaleAwareModulation
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth

ALTERNATING_STAGE = 2
STAGES = 4
SMALLEST_IMAGE = 3  # pixels a side: the stem rounds up first, then down


@dataclass(frozen=True, kw_only=True)
class SMTConfig(Config):
    """`modulation_stages` says which stages modulate; the others attend, and so does every second block of the third.

    `modulation_heads` and `heads` may be null for a stage that does not use them.
    """

    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 8, 1)
    modulation_heads: tuple[int | None, ...] = (4, 4, 4, None)
    heads: tuple[int | None, ...] = (None, None, 8, 16)
    mlp_ratios: tuple[float, ...] = (4, 4, 4, 2)
    qkv_bias: bool = True
    layer_scale: float | None = None
    modulation_stages: tuple[bool, ...] = (True, True, True, False)
    stem_kernel_size: int = 3
    expand_ratio: int = 2

    def check(self) -> None:
        require_stages(
            dims=self.dims,
            depths=self.depths,
            modulation_heads=self.modulation_heads,
            heads=self.heads,
            mlp_ratios=self.mlp_ratios,
            modulation_stages=self.modulation_stages,
        )
        require(len(self.dims) == STAGES, "dims", self.dims, f"{STAGES} stages")
        require(self.stem_kernel_size in (3, 7), "stem_kernel_size", self.stem_kernel_size, "3 or 7")
        require_positive(expand_ratio=self.expand_ratio)
        for stage, (dim, depth) in enumerate(zip(self.dims, self.depths, strict=True)):
            for modulates in {self.modulates(stage, block) for block in range(depth)}:
                field = "modulation_heads" if modulates else "heads"
                heads = getattr(self, field)[stage]
                require(heads is not None, field, getattr(self, field), f"a number for stage {stage}, which needs it")
                require_divisible(dim, heads, field)

    def modulates(self, stage: int, block: int) -> bool:
        """Whether a block's token mixer is modulation, not attention."""
        return self.modulation_stages[stage] and not (stage == ALTERNATING_STAGE and block % 2)


@register("smt", SMTConfig)
class SMT(Backbone):
    """Scale-aware modulation transformer. Takes any image of at least 3 pixels a side."""

    def __init__(self, config: SMTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, STAGES)
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stages = pyramid_stages(
            dims,
            rates,
            overlapping_merging,
            lambda i, j, rate: smt_block(config, i, j, drop_path=rate),
            stem=smt_stem(config),
            norm=LayerNorm,
        )
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)
        self.apply(init_mixing_)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, SMALLEST_IMAGE)
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def smt_stem(config: SMTConfig) -> nn.Sequential:
    dim = config.dims[0]
    return nn.Sequential(
        ConvNorm(config.in_channels, dim, config.stem_kernel_size, stride=2, act=nn.ReLU()),
        PatchEmbed(dim, dim, 2, norm=nn.LayerNorm(dim)),
    )


def smt_block(config: SMTConfig, stage: int, index: int, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    return Block(
        dim,
        smt_mixer(config, stage, index),
        ConvMLP(dim, int(dim * config.mlp_ratios[stage]), residual=True),
        norm=LayerNorm,
        layer_scale=config.layer_scale,
        drop_path=drop_path,
    )


def smt_mixer(config: SMTConfig, stage: int, index: int) -> nn.Module:
    dim = config.dims[stage]
    if config.modulates(stage, index):
        heads = config.modulation_heads[stage]
        assert heads is not None
        return ScaleAwareModulation(dim, heads, expand_ratio=config.expand_ratio, qkv_bias=config.qkv_bias)
    heads = config.heads[stage]
    assert heads is not None
    return Attention(dim, heads, qkv_bias=config.qkv_bias, value_local=depthwise_conv(dim, 3))


def init_mixing_(layer: nn.Module) -> None:
    """The one linear layer that is a 1x1 convolution in the reference."""
    if isinstance(layer, ScaleAwareModulation):
        init_pointwise_fan_out_(layer.mix_channels)


TINY = SMTConfig()
BASE = TINY.replace(depths=(4, 6, 28, 2), mlp_ratios=(8, 6, 4, 2), stem_kernel_size=7)

# The large model at 384 x 384 has the configuration of the one at 224 x 224.
VARIANTS = {
    "smt_tiny": TINY,
    "smt_small": TINY.replace(depths=(3, 4, 18, 2)),
    "smt_base": BASE,
    "smt_large": BASE.replace(dims=(96, 192, 384, 768), depths=(4, 6, 28, 4), layer_scale=1e-4),
}

REFERENCE_NAMES = [
    (r"^patch_embed1\.conv\.0\.", "stages.0.downsample.0.conv."),
    (r"^patch_embed1\.conv\.1\.", "stages.0.downsample.0.norm."),
    (r"^patch_embed1\.conv\.3\.", "stages.0.downsample.1.proj."),
    (r"^patch_embed1\.norm\.", "stages.0.downsample.1.norm."),
    (r"\.attn\.v\.", ".attn.value."),
    (r"\.attn\.s\.", ".attn.scales."),
    (r"\.attn\.local_conv_(\d+)\.", zero_based(".attn.convs.{}.")),
    (r"\.attn\.local_conv\.", ".attn.value_local."),
    (r"\.attn\.proj0\.", ".attn.mix_heads.conv."),
    (r"\.attn\.bn\.", ".attn.mix_heads.norm."),
    (r"\.attn\.proj1\.", ".attn.mix_channels."),
    (r"\.mlp\.dwconv\.dwconv\.", ".channel.inner.conv.conv."),
    *PVT_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: SMT) -> dict[str, Tensor]:
    return join_layers(state, ("q", "kv"), "qkv")
