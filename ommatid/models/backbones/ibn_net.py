"""IBN-Net: a ResNet whose shallow stages also norm each image by itself, so that looks matter less than content.

"Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (arXiv 1807.09441).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.reference import zero_based
from ommatid.models.registry import register
from ommatid.nn.block import pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.init import init_conv_fan_out_
from ommatid.nn.norm import InstanceBatchNorm, InstanceNorm2d
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.resnet import ResNetBlock, resnet_stem

EXPANSION = {"basic": 1, "bottleneck": 4}
Kinds = tuple[Literal["a", "b"] | None, ...]
IBN_A: Kinds = ("a", "a", "a", None)
IBN_B: Kinds = ("b", "b", None, None)


@dataclass(frozen=True, kw_only=True)
class IBNNetConfig(Config):
    """`dims` are the inner widths; a stage's map is 4 times as wide with bottlenecks. `stem_dim`: dims[0] where None.

    `ibn` says by stage where instance norm is: "a", in half of the first norm of every block; "b", after the sum of
    the last block, unless that is the only one (and, for the first stage, in the stem); None, nowhere.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 2)
    ibn: Kinds = IBN_A
    pool_size: int = 7
    stem_dim: int | None = None

    def check(self) -> None:
        require_stages(dims=self.dims, depths=self.depths, ibn=self.ibn)
        require(min(self.depths) > 0, "depths", self.depths, "at least one block in every stage")
        halves = all(dim > 0 and (kind != "a" or dim % 2 == 0) for dim, kind in zip(self.dims, self.ibn, strict=True))
        require(halves, "dims", self.dims, "positive integers, even where ibn is 'a'")
        require_positive(pool_size=self.pool_size)
        require(self.stem_dim is None or self.stem_dim > 0, "stem_dim", self.stem_dim, "a positive integer, or None")


@register("ibn_net", IBNNetConfig)
class IBNNet(Backbone):
    """ResNet-IBN-a and -b. Sides round up.

    Feature maps come from any image. The embedding is the mean of the top-left `pool_size` x `pool_size` cells of the
    last map: the reference's pooling is of fixed size and must leave one cell. Where there are fewer, all are averaged.
    """

    config: IBNNetConfig

    def __init__(self, config: IBNNetConfig) -> None:
        super().__init__(config)
        dims, expansion = config.dims, EXPANSION[config.block]
        self.channels, self.strides = tuple(expansion * dim for dim in dims), doubling_strides(4, len(dims))
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        stem_dim = config.stem_dim or dims[0]
        stem_norm = InstanceNorm2d(stem_dim) if config.ibn[0] == "b" else None
        self.stem = resnet_stem(config.in_channels, stem_dim, norm=stem_norm)
        in_dims = (stem_dim, *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ibn_block(config, in_dims[i : i + 2], i, j, drop_path=rate) for j, rate in enumerate(stage))
            )
            for i, stage in enumerate(rates)
        )
        self.head = classifier(self.channels[-1], config.num_classes)
        self.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return pyramid(self.stages, self.stem(channels_last(image)))

    def embed(self, image: Tensor) -> Tensor:
        size, pool, stride = tuple(image.shape[-2:]), self.config.pool_size, self.strides[-1]
        largest = stride * (2 * pool - 1)
        require(max(size) <= largest, "image size", size, f"up to {largest} a side (pool_size = {pool})")
        return self.maps(image)[-1][:, :pool, :pool].mean((1, 2))


def ibn_block(config: IBNNetConfig, dims: tuple[int, ...], stage: int, index: int, *, drop_path: float) -> ResNetBlock:
    """Block `index` of a stage: from the width dims[0] to dims[1], or just dims[1] after the first."""
    in_dim, dim = dims[1] if index else dims[0], dims[1]
    stride = 2 if stage and index == 0 else 1
    inner, kind = config.dims[stage], config.ibn[stage]
    first_norm = InstanceBatchNorm(inner) if kind == "a" else None
    if config.block == "basic":
        branch = nn.Sequential(
            ConvNorm(in_dim, inner, 3, stride=stride, norm=first_norm, act=nn.ReLU()),
            ConvNorm(inner, dim, 3),
        )
    else:
        branch = nn.Sequential(
            ConvNorm(in_dim, inner, 1, norm=first_norm, act=nn.ReLU()),
            ConvNorm(inner, inner, 3, stride=stride, act=nn.ReLU()),
            ConvNorm(inner, dim, 1),
        )
    norms_sum = kind == "b" and 0 < index == config.depths[stage] - 1
    norm = InstanceNorm2d(dim) if norms_sum else None
    return ResNetBlock(in_dim, dim, branch, stride=stride, norm=norm, drop_path=drop_path)


def resnets(block: Literal["basic", "bottleneck"], layers: int, depths: tuple[int, ...]) -> dict[str, IBNNetConfig]:
    return {
        f"resnet{layers}_ibn_a": IBNNetConfig(block=block, depths=depths, ibn=IBN_A),
        f"resnet{layers}_ibn_b": IBNNetConfig(block=block, depths=depths, ibn=IBN_B),
    }


VARIANTS = {
    **resnets("basic", 18, (2, 2, 2, 2)),
    **resnets("basic", 34, (3, 4, 6, 3)),
    **resnets("bottleneck", 50, (3, 4, 6, 3)),
    **resnets("bottleneck", 101, (3, 4, 23, 3)),
    **resnets("bottleneck", 152, (3, 8, 36, 3)),
}

REFERENCE_NAMES = [
    (r"^conv1\.", "stem.0.conv."),
    (r"^bn1\.", "stem.0.norm."),
    (r"^layer(\d+)\.", zero_based("stages.{}.")),
    (r"\.conv(\d)\.", zero_based(".branch.{}.conv.")),
    (r"\.bn(\d)\.", zero_based(".branch.{}.norm.")),
    (r"\.norm\.IN\.", ".norm.instance."),
    (r"\.norm\.BN\.", ".norm.batch."),
    (r"\.IN\.", ".norm."),
    (r"\.downsample\.0\.", ".shortcut.conv."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"^fc\.", "head."),
]
