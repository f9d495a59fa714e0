"""SOFT: attention without softmax, a Gaussian kernel of low rank, on a pyramid; ordinary attention at its top.

"SOFT: Softmax-free Transformer with Linear Complexity" (arXiv 2110.11945), "Softmax-free Linear Transformers"
(arXiv 2207.03341).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_divisible, require_stages
from ommatid.models.reference import join_layers, position_map, zero_based
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import Block, Stage, pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention, SoftmaxFreeAttention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import AbsolutePosition
from ommatid.nn.residual import PostNormResidual, stochastic_depth
from ommatid.nn.tokens import TokenSequence, split_tokens

STAGES = 4
STEM_DIM = 32
LOCAL_KERNELS = (9, 5, 3)
GRIDS = ((56, 56), (28, 28), (14, 14), (7, 7))  # of the position tables, whatever the image


@dataclass(frozen=True, kw_only=True)
class SOFTConfig(Config):
    """`variant` names the operator: regularised ("soft") or normalised ("soft_norm", SOFT++).

    `landmark_ratios` belong to the first three stages; `mlp_ratio`, `qkv_bias` and `sr_ratio`, always 1, to the fourth.
    `drop_path_rate` is that of an ordinary dropout in the first three.
    """

    variant: Literal["soft", "soft_norm"] = "soft"
    dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (1, 2, 3, 2)
    heads: tuple[int, ...] = (2, 4, 10, 16)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    landmark_ratios: tuple[int, ...] = (8, 4, 2)
    sr_ratio: int = 1
    newton_iterations: int = 20

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, heads=self.heads)
        require(len(self.dims) == STAGES, "dims", self.dims, f"{STAGES} stages")
        require_divisible(self.dims, self.heads)
        ratios = self.landmark_ratios
        positive = len(ratios) == STAGES - 1 and min(ratios) > 0
        require(positive, "landmark_ratios", ratios, f"{STAGES - 1} positive integers")
        require(self.sr_ratio == 1, "sr_ratio", self.sr_ratio, "1")
        require(self.newton_iterations >= 0, "newton_iterations", self.newton_iterations, "0 or more")

    @property
    def smallest_image(self) -> int:
        """Pixels a side that leave every stage a landmark."""
        return max(
            stride * (ratio - 1) + 1
            for stride, ratio in zip(doubling_strides(4, STAGES - 1), self.landmark_ratios, strict=True)
        )


@register("soft", SOFTConfig)
class SOFT(Backbone):
    """SOFT and SOFT++. Sides round up and position tables are resampled; an image must leave each stage a landmark.

    In SOFT++ Newton's step follows from the largest row sum of the whole batch, so an image's answer depends, in the
    third digit, on the others beside it.
    """

    config: SOFTConfig
    no_decay = ("class_token.token",)

    def __init__(self, config: SOFTConfig) -> None:
        super().__init__(config)
        dims = config.dims
        self.channels, self.strides = dims, doubling_strides(4, STAGES)
        self.batch_dependent = config.variant == "soft_norm"
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.stages = nn.ModuleList(
            Stage(
                nn.Sequential(
                    halving(dims[i - 1], dims[i]) if i else soft_stem(config.in_channels, dims[0]),
                    AbsolutePosition(GRIDS[i], dims[i], mode="bilinear", antialias=False),
                ),
                [soft_block(config, i, dropout=rate) for rate in rates[i]],
            )
            for i in range(STAGES - 1)
        )
        self.last_downsample = halving(dims[-2], dims[-1])
        self.sequence = TokenSequence(GRIDS[-1], dims[-1], mode="bilinear", antialias=False)
        self.last_blocks = nn.Sequential(*(attention_block(config, drop_path=rate) for rate in rates[-1]))
        self.norm = LayerNorm(dims[-1])
        self.head = classifier(dims[-1], config.num_classes)
        self.apply(init_linear_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return self._run(image)[0]

    def embed(self, image: Tensor) -> Tensor:
        return self.norm(self._run(image)[1]).squeeze(1)

    def _run(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The map of each stage, and the class token (B, 1, D)."""
        require_at_least(image, self.config.smallest_image)
        maps = pyramid(self.stages, channels_last(image))
        patches = self.last_downsample(maps[-1])
        tokens = self.last_blocks(self.sequence(patches))
        class_token, last = split_tokens(tokens, (patches.shape[1], patches.shape[2]))
        return [*maps, last], class_token


def soft_stem(in_channels: int, dim: int) -> nn.Sequential:
    return nn.Sequential(
        halving(in_channels, STEM_DIM),
        ConvNorm(STEM_DIM, STEM_DIM, 3, bias=True, act=nn.ReLU()),
        halving(STEM_DIM, dim),
    )


def halving(in_dim: int, dim: int) -> ConvNorm:
    return ConvNorm(in_dim, dim, 3, stride=2, bias=True, act=nn.ReLU())


def soft_block(config: SOFTConfig, stage: int, *, dropout: float) -> nn.Sequential:
    """Post-norm, with an ordinary dropout at the end of both branches."""
    dim = config.dims[stage]
    mixer = SoftmaxFreeAttention(
        dim,
        config.heads[stage],
        config.landmark_ratios[stage],
        kernel_size=LOCAL_KERNELS[stage],
        iterations=config.newton_iterations,
        normalize=config.variant == "soft_norm",
    )
    mlp = MLP(dim, 4 * dim, act=nn.GELU(approximate="tanh"))
    return nn.Sequential(*(PostNormResidual(dim, nn.Sequential(inner, nn.Dropout(dropout))) for inner in (mixer, mlp)))


def attention_block(config: SOFTConfig, *, drop_path: float) -> Block:
    dim = config.dims[-1]
    return Block(
        dim,
        Attention(dim, config.heads[-1], qkv_bias=config.qkv_bias),
        MLP(dim, int(dim * config.mlp_ratio)),
        norm=LayerNorm,
        drop_path=drop_path,
    )


SIZES = {
    "tiny": SOFTConfig(),
    "small": SOFTConfig(depths=(1, 3, 20, 4)),
    "medium": SOFTConfig(depths=(1, 3, 29, 5), dims=(64, 128, 288, 512), heads=(2, 4, 9, 16)),
    "large": SOFTConfig(depths=(1, 3, 40, 5)),
    "huge": SOFTConfig(depths=(1, 5, 49, 5), dims=(64, 128, 352, 512), heads=(2, 4, 11, 16)),
}

VARIANTS = {f"soft_{size}": config for size, config in SIZES.items()} | {
    f"soft_norm_{size}": config.replace(variant="soft_norm") for size, config in SIZES.items()
}

# The stem's layers by their place in the reference: convolution, batch norm and ReLU, three times.
REFERENCE_NAMES = [
    (
        r"^patch_embed1\.proj\.(\d)\.",
        lambda match: f"stages.0.downsample.0.{int(match[1]) // 3}.{('conv', 'norm')[int(match[1]) % 3]}.",
    ),
    (r"^patch_embed4\.proj\.0\.", "last_downsample.conv."),
    (r"^patch_embed4\.proj\.1\.", "last_downsample.norm."),
    (r"^patch_embed(\d)\.proj\.0\.", zero_based("stages.{}.downsample.0.conv.")),
    (r"^patch_embed(\d)\.proj\.1\.", zero_based("stages.{}.downsample.0.norm.")),
    (r"^pos_embed4$", "sequence.position"),
    (r"^pos_embed(\d)$", zero_based("stages.{}.downsample.1.table")),
    (r"^cls_token$", "sequence.class_token.token"),
    (r"^block4\.(\d+)\.norm1\.", r"last_blocks.\1.token.norm."),
    (r"^block4\.(\d+)\.norm2\.", r"last_blocks.\1.channel.norm."),
    (r"^block4\.(\d+)\.attn\.", r"last_blocks.\1.token.inner."),
    (r"^block4\.(\d+)\.mlp\.", r"last_blocks.\1.channel.inner."),
    (r"^block(\d)\.", zero_based("stages.{}.blocks.")),
    (r"\.att\.norm1\.", ".0.norm."),
    (r"\.att\.norm2\.", ".1.norm."),
    (r"\.att\.ff([12])\.", r".1.inner.0.fc\1."),
    (r"\.att\.mha\.W_q\.", ".0.inner.0.query."),
    (r"\.att\.mha\.W_v\.", ".0.inner.0.value."),
    (r"\.att\.mha\.ff\.", ".0.inner.0.proj."),
    (r"\.att\.mha\.attn\.Qlandmark_op\.", ".0.inner.0.landmark."),
    (r"\.att\.mha\.attn\.Qnorm_act\.0\.", ".0.inner.0.landmark_norm."),
    (r"\.att\.mha\.attn\.conv\.", ".0.inner.0.local."),
]


def convert_reference(state: dict[str, Tensor], model: SOFT) -> dict[str, Tensor]:
    for stage, grid in enumerate(GRIDS[:-1], start=1):
        state = position_map(state, f"pos_embed{stage}", grid)
    return join_layers(state, ("q", "kv"), "qkv")
