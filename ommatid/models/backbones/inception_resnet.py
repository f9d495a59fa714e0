"""Inception-ResNet-v2: Inception modules as residual branches, scaled down so that very wide ones train stably.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, require_at_least
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.branches import Branches
from ommatid.nn.conv import Conv2d
from ommatid.nn.deploy import scale_output_
from ommatid.nn.inception import (
    SMALLEST_IMAGE,
    averaged_conv,
    conv_chain,
    conv_relu,
    halving_pool,
    inception_stem,
    valid_conv_relu,
)
from ommatid.nn.residual import DropPath, stochastic_depth


@dataclass(frozen=True, kw_only=True)
class InceptionResNetConfig(Config):
    """`depths`: how often the residual blocks of each kind repeat; one more ends the last stage."""

    depths: tuple[int, int, int] = (10, 20, 9)

    def check(self) -> None:
        require(min(self.depths) >= 0, "depths", self.depths, "0 blocks or more")


@register("inception_resnet", InceptionResNetConfig)
class InceptionResNet(Backbone):
    """Inception-ResNet-v2, with the stem of the released network, which is simpler than the paper's.

    Most downsampling is unpadded: a map is a little smaller than the image divided by its stride.
    """

    def __init__(self, config: InceptionResNetConfig) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(smallest=SMALLEST_IMAGE)
        a, b, c = config.depths
        self.channels, self.strides = (64, 192, 320, 1088, 1536), (2, 4, 8, 16, 32)
        rates = stochastic_depth(config.drop_path_rate, (a, b, c + 1))
        self.stages = nn.ModuleList(
            [
                inception_stem(config.in_channels),
                nn.Sequential(halving_pool(), conv_relu(64, 80, 1), valid_conv_relu(80, 192, stride=1)),
                Stage(nn.Sequential(halving_pool(), mixed_5b()), [block35(drop_path=rate) for rate in rates[0]]),
                Stage(mixed_6a(), [block17(drop_path=rate) for rate in rates[1]]),
                Stage(mixed_7a(), [block8(drop_path=rate) for rate in rates[2][:-1]]),
            ]
        )
        self.last_block = block8(scale=1.0, act=nn.Identity(), drop_path=rates[2][-1])
        self.last_conv = conv_relu(2080, 1536, 1)
        self.head = classifier(1536, config.num_classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, SMALLEST_IMAGE)
        *finer, last = pyramid(self.stages, channels_last(image))
        return [*finer, self.last_conv(self.last_block(last))]

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


class ScaledBlock(nn.Module):
    """act(x + scale * proj(branches(x))): (B, H, W, C) -> (B, H, W, C). `deploy()` folds the constant scale.

    Args:
        dim: C.
        hidden: width of the branches together.
        branches: (B, H, W, C) -> (B, H, W, hidden).
        scale: of the residual branch, the projection's bias included.
        act: behind the sum; ReLU where None.
        drop_path: stochastic depth rate.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        branches: Branches,
        *,
        scale: float,
        act: nn.Module | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.inner = branches
        self.proj = Conv2d(hidden, dim, 1)
        self.scale = scale
        self.act = act or nn.ReLU()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.proj(self.inner(x))
        return self.act(x + self.drop_path(branch if self.scale == 1 else self.scale * branch))

    def deploy_(self) -> None:
        scale_output_(self.proj, self.proj.weight.new_tensor(self.scale))
        self.scale = 1.0


def block35(*, drop_path: float) -> ScaledBlock:
    branches = Branches(
        conv_relu(320, 32, 1),
        conv_chain(320, (32, 1), (32, 3)),
        conv_chain(320, (32, 1), (48, 3), (64, 3)),
    )
    return ScaledBlock(320, 128, branches, scale=0.17, drop_path=drop_path)


def block17(*, drop_path: float) -> ScaledBlock:
    branches = Branches(conv_relu(1088, 192, 1), conv_chain(1088, (128, 1), (160, (1, 7)), (192, (7, 1))))
    return ScaledBlock(1088, 384, branches, scale=0.10, drop_path=drop_path)


def block8(*, scale: float = 0.20, act: nn.Module | None = None, drop_path: float) -> ScaledBlock:
    branches = Branches(conv_relu(2080, 192, 1), conv_chain(2080, (192, 1), (224, (1, 3)), (256, (3, 1))))
    return ScaledBlock(2080, 448, branches, scale=scale, act=act, drop_path=drop_path)


def mixed_5b() -> Branches:
    return Branches(
        conv_relu(192, 96, 1),
        conv_chain(192, (48, 1), (64, 5)),
        conv_chain(192, (64, 1), (96, 3), (96, 3)),
        averaged_conv(192, 64),
    )


def mixed_6a() -> Branches:
    return Branches(
        valid_conv_relu(320, 384),
        nn.Sequential(*conv_chain(320, (256, 1), (256, 3)), valid_conv_relu(256, 384)),
        halving_pool(),
    )


def mixed_7a() -> Branches:
    return Branches(
        nn.Sequential(conv_relu(1088, 256, 1), valid_conv_relu(256, 384)),
        nn.Sequential(conv_relu(1088, 256, 1), valid_conv_relu(256, 288)),
        nn.Sequential(*conv_chain(1088, (256, 1), (288, 3)), valid_conv_relu(288, 320)),
        halving_pool(),
    )


VARIANTS = {"inception_resnet_v2": InceptionResNetConfig()}

REFERENCE_NAMES = [
    (r"^conv2d_1a\.", "stages.0.0."),
    (r"^conv2d_2a\.", "stages.0.1."),
    (r"^conv2d_2b\.", "stages.0.2."),
    (r"^conv2d_3b\.", "stages.1.1."),
    (r"^conv2d_4a\.", "stages.1.2."),
    (r"^mixed_5b\.", "stages.2.downsample.1."),
    (r"^mixed_6a\.", "stages.3.downsample."),
    (r"^mixed_7a\.", "stages.4.downsample."),
    (r"^repeat\.", "stages.2.blocks."),
    (r"^repeat_1\.", "stages.3.blocks."),
    (r"^repeat_2\.", "stages.4.blocks."),
    (r"^block8\.", "last_block."),
    (r"^conv2d_7b\.", "last_conv."),
    (r"\.conv2d\.", ".proj."),
    (r"(blocks\.\d+|last_block)\.branch", r"\1.inner.branch"),
    (r"\.branch(\d)\.", r".branches.\1."),
    (r"\.bn\.", ".norm."),
    (r"^classif\.", "head."),
]
