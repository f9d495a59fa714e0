"""TransNeXt: every token sees its own neighbourhood sharply and the whole map coarsely, as a moving eye does.

"TransNeXt: Robust Foveal Visual Perception for Vision Transformers" (arXiv 2311.17132).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_positive, require_stages
from ommatid.models.names import BLOCK_NAMES, PVT_STAGE_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, halved
from ommatid.nn.block import Block, pyramid, pyramid_stages
from ommatid.nn.conv_glu import ConvGLU
from ommatid.nn.embed import overlapping_merging, overlapping_stem
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mixers import AggregatedAttention, LengthScaledAttention
from ommatid.nn.mixture_of_heads import MixtureOfHeads
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth

NO_DECAY = ("query_embedding", "window_bias", "temperature", "network.0.weight", "network.2.weight")


@dataclass(frozen=True, kw_only=True)
class TransNeXtConfig(Config):
    """Four stages. A stage with 1 in `sr_ratios` attends to the whole map, and its window means nothing.

    `pretrain_size` is the image size that offsets between tokens are measured by; null for `image_size`.
    """

    image_size: int = 224
    pretrain_size: int | None = None
    patch_size: int = 4
    dims: tuple[int, ...] = (48, 96, 192, 384)
    depths: tuple[int, ...] = (2, 2, 15, 2)
    heads: tuple[int, ...] = (2, 4, 8, 16)
    window_sizes: tuple[int | None, ...] = (3, 3, 3, None)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    qkv_bias: bool = True
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    fixed_pool_size: int | None = None

    def check(self) -> None:
        require(len(self.dims) == 4, "dims", self.dims, "four widths, one for each stage")
        require_stages(
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            window_sizes=self.window_sizes,
            mlp_ratios=self.mlp_ratios,
            sr_ratios=self.sr_ratios,
        )
        require_divisible(self.dims, self.heads)
        require(self.patch_size == 4, "patch_size", self.patch_size, "4")
        require_positive(sr_ratios=self.sr_ratios)
        for window, ratio in zip(self.window_sizes, self.sr_ratios, strict=True):
            odd = ratio == 1 or (window is not None and window > 0 and window % 2 == 1)
            require(odd, "window_sizes", self.window_sizes, "an odd integer for each stage whose sr_ratio is not 1")
        pretrain = self.pretrain_size or self.image_size
        require(
            pretrain >= 64, "image_size" if self.pretrain_size is None else "pretrain_size", pretrain, "at least 64"
        )
        pool = self.fixed_pool_size
        require(pool is None or pool > 0, "fixed_pool_size", pool, "null or a positive integer")
        self.check_size("image_size", (self.image_size, self.image_size))

    def check_size(self, field: str, size: tuple[int, int]) -> None:
        """Raises ValueError for images whose maps can't be pooled."""
        for stage, ratio in enumerate(self.sr_ratios):
            if ratio > 1:
                smallest = ratio if self.fixed_pool_size is None else self.fixed_pool_size + 1
                fits = min(halved(size, stage + 2)) >= smallest
                require(fits, field, size, f"what leaves stage {stage} a map of at least {smallest} a side")

    @property
    def smallest_image(self) -> int:
        """Pixels a side, for maps that can be pooled."""
        cells = [ratio if self.fixed_pool_size is None else self.fixed_pool_size + 1 for ratio in self.sr_ratios]
        return max((4 * 2**stage * cells[stage] for stage, ratio in enumerate(self.sr_ratios) if ratio > 1), default=1)

    def map_size(self, stage: int) -> tuple[int, int]:
        return halved((self.image_size, self.image_size), stage + 2)

    def pretrain_map_size(self, stage: int) -> tuple[int, int]:
        side = (self.pretrain_size or self.image_size) // 2 ** (stage + 2)
        return side, side


@register("transnext", TransNeXtConfig)
class TransNeXt(Backbone):
    """TransNeXt. Takes any image whose maps can be pooled: sides round up, and positions are those of its own size,
    which the authors call extrapolation.
    """

    config: TransNeXtConfig
    no_decay = NO_DECAY

    def __init__(self, config: TransNeXtConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(smallest=config.smallest_image)
        self.channels, self.strides = config.dims, doubling_strides(config.patch_size, len(config.dims))
        self.stages = transnext_stages(config)
        self.head = classifier(config.dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        self.config.check_size("image size", (image.shape[-2], image.shape[-1]))
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def transnext_stages(
    config: TransNeXtConfig, make_gate: Callable[[int], MixtureOfHeads | None] = lambda stage: None
) -> nn.ModuleList:
    """The four stages; `make_gate` makes what weighs the heads of a block of a stage."""
    dims = config.dims
    rates = stochastic_depth(config.drop_path_rate, config.depths)
    return pyramid_stages(
        dims,
        rates,
        overlapping_merging,
        lambda i, _, rate: transnext_block(config, i, make_gate(i), drop_path=rate),
        stem=overlapping_stem(config.in_channels, dims[0]),
        norm=LayerNorm,
    )


def transnext_block(config: TransNeXtConfig, stage: int, gate: MixtureOfHeads | None, *, drop_path: float) -> Block:
    dim = config.dims[stage]
    mixer = transnext_mixer(
        dim,
        config.heads[stage],
        config.window_sizes[stage],
        config.sr_ratios[stage],
        size=config.map_size(stage),
        pretrain_size=config.pretrain_map_size(stage),
        pool_size=config.fixed_pool_size,
        qkv_bias=config.qkv_bias,
        gate=gate,
    )
    hidden = int(2 * int(dim * config.mlp_ratios[stage]) / 3)
    return Block(dim, mixer, ConvGLU(dim, hidden), norm=LayerNorm, drop_path=drop_path)


def transnext_mixer(
    dim: int, heads: int, window_size: int | None, ratio: int, *, pool_size: int | None = None, **options
) -> nn.Module:
    """Attention over the whole map where the ratio is 1, otherwise to the window and the pooled map."""
    if ratio == 1:
        return LengthScaledAttention(dim, heads, **options)
    assert window_size is not None
    return AggregatedAttention(dim, heads, window_size, ratio, pool_size=pool_size, **options)


MICRO = TransNeXtConfig()
TINY = MICRO.replace(dims=(72, 144, 288, 576), heads=(3, 6, 12, 24))
SMALL = TINY.replace(depths=(5, 5, 22, 5))
BASE = MICRO.replace(dims=(96, 192, 384, 768), heads=(4, 8, 16, 32), depths=(5, 5, 23, 5))
AT_384 = {"image_size": 384, "pretrain_size": 224}

VARIANTS = {
    "transnext_micro": MICRO,
    "transnext_tiny": TINY,
    "transnext_small": SMALL,
    "transnext_base": BASE,
    "transnext_small_384": SMALL.replace(**AT_384),
    "transnext_base_384": BASE.replace(**AT_384),
    "transnext_micro_aaaa_256": MICRO.replace(image_size=256, window_sizes=(3, 3, 3, 3), sr_ratios=(16, 8, 4, 2)),
}

# Names inside an attention layer, which MoH shares.
ATTENTION_NAMES = [
    (r"(^|\.)(temperature|query_embedding)$", r"\1length_scale.\2"),
    (r"(^|\.)relative_pos_bias_local$", r"\1window_bias"),
    (r"(^|\.)learnable_tokens$", r"\1tokens"),
    (r"(^|\.)learnable_bias$", r"\1token_bias"),
    (r"(^|\.)q\.", r"\1query."),
    (r"(^|\.)kv\.", r"\1key_value."),
    (r"(^|\.)sr\.", r"\1reduce.0."),
    (r"(^|\.)cpb_fc1\.", r"\1position.network.0."),
    (r"(^|\.)cpb_fc2\.", r"\1position.network.2."),
]

REFERENCE_NAMES = [
    (r"\.attn\.norm\.", ".token.inner.pooled_norm."),
    *ATTENTION_NAMES,
    *PVT_STAGE_NAMES,
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Separates the two halves of the first layer of every MLP."""
    converted = {}
    for name, value in state.items():
        if ".mlp.fc1." in name:
            for half, part in zip(("gate", "value"), value.chunk(2), strict=True):
                converted[name.replace("fc1", half)] = part
        else:
            converted[name] = value
    return converted
