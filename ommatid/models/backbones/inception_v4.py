"""Inception-v4: at every depth, convolutions of several sizes and factorised shapes side by side.

"Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning" (arXiv 1602.07261).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require
from ommatid.models.reference import rename
from ommatid.models.registry import register
from ommatid.models.sizes import ImageSizes, require_at_least
from ommatid.nn.block import Stage, pyramid
from ommatid.nn.branches import Branches
from ommatid.nn.inception import (
    SMALLEST_IMAGE,
    averaged_conv,
    conv_chain,
    conv_relu,
    halving_pool,
    inception_stem,
    valid_conv_relu,
)


@dataclass(frozen=True, kw_only=True)
class InceptionV4Config(Config):
    """`depths`: how often the modules A, B and C repeat. Without residual branches, `drop_path_rate` means nothing."""

    depths: tuple[int, int, int] = (4, 7, 3)

    def check(self) -> None:
        require(min(self.depths) >= 0, "depths", self.depths, "0 modules or more")


@register("inception_v4", InceptionV4Config)
class InceptionV4(Backbone):
    """Inception-v4. Most downsampling is unpadded: a map is a little smaller than the image divided by its stride."""

    config: InceptionV4Config

    def __init__(self, config: InceptionV4Config) -> None:
        super().__init__(config)
        self.image_sizes = ImageSizes(smallest=SMALLEST_IMAGE)
        a, b, c = config.depths
        self.channels, self.strides = (64, 160, 384, 1024, 1536), (2, 4, 8, 16, 32)
        self.stages = nn.ModuleList(
            [
                inception_stem(config.in_channels),
                mixed_3a(),
                Stage(nn.Sequential(mixed_4a(), mixed_5a()), [inception_a() for _ in range(a)]),
                Stage(reduction_a(), [inception_b() for _ in range(b)]),
                Stage(reduction_b(), [inception_c() for _ in range(c)]),
            ]
        )
        self.head = classifier(1536, config.num_classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, SMALLEST_IMAGE)
        return pyramid(self.stages, channels_last(image))

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))


def mixed_3a() -> Branches:
    return Branches(halving_pool(), valid_conv_relu(64, 96))


def mixed_4a() -> Branches:
    return Branches(
        nn.Sequential(conv_relu(160, 64, 1), valid_conv_relu(64, 96, stride=1)),
        nn.Sequential(*conv_chain(160, (64, 1), (64, (1, 7)), (64, (7, 1))), valid_conv_relu(64, 96, stride=1)),
    )


def mixed_5a() -> Branches:
    return Branches(valid_conv_relu(192, 192), halving_pool())


def inception_a() -> Branches:
    return Branches(
        conv_relu(384, 96, 1),
        conv_chain(384, (64, 1), (96, 3)),
        conv_chain(384, (64, 1), (96, 3), (96, 3)),
        averaged_conv(384, 96),
    )


def reduction_a() -> Branches:
    return Branches(
        valid_conv_relu(384, 384),
        nn.Sequential(*conv_chain(384, (192, 1), (224, 3)), valid_conv_relu(224, 256)),
        halving_pool(),
    )


def inception_b() -> Branches:
    return Branches(
        conv_relu(1024, 384, 1),
        conv_chain(1024, (192, 1), (224, (1, 7)), (256, (7, 1))),
        conv_chain(1024, (192, 1), (192, (7, 1)), (224, (1, 7)), (224, (7, 1)), (256, (1, 7))),
        averaged_conv(1024, 128),
    )


def reduction_b() -> Branches:
    return Branches(
        nn.Sequential(conv_relu(1024, 192, 1), valid_conv_relu(192, 192)),
        nn.Sequential(*conv_chain(1024, (256, 1), (256, (1, 7)), (320, (7, 1))), valid_conv_relu(320, 320)),
        halving_pool(),
    )


def inception_c() -> Branches:
    return Branches(
        conv_relu(1536, 256, 1),
        nn.Sequential(conv_relu(1536, 384, 1), row_and_column(384)),
        nn.Sequential(*conv_chain(1536, (384, 1), (448, (3, 1)), (512, (1, 3))), row_and_column(512)),
        averaged_conv(1536, 256),
    )


def row_and_column(in_dim: int) -> Branches:
    """A 1x3 and a 3x1 convolution side by side: (B, H, W, C_in) -> (B, H, W, 512)."""
    return Branches(conv_relu(in_dim, 256, (1, 3)), conv_relu(in_dim, 256, (3, 1)))


VARIANTS = {"inception_v4": InceptionV4Config()}

REFERENCE_NAMES = [
    (r"^stages\.1\.conv\.", "stages.1.branches.1."),
    (r"^stages\.2\.downsample\.1\.conv\.", "stages.2.downsample.1.branches.0."),
    (r"\.branch([12])_([0-2])\.", r".branches.\1.\2."),
    (r"\.branch([12])_([13])a\.", r".branches.\1.\2.branches.0."),
    (r"\.branch([12])_([13])b\.", r".branches.\1.\2.branches.1."),
    (r"\.branch(\d)\.", r".branches.\1."),
    (r"\.bn\.", ".norm."),
    (r"^last_linear\.", "head."),
]


def convert_reference(state: dict[str, Tensor], model: InceptionV4) -> dict[str, Tensor]:
    """Finds the module of each tensor: the reference counts them all in one row."""
    row = ["stages.0.0.", "stages.0.1.", "stages.0.2.", "stages.1.", "stages.2.downsample.0.", "stages.2.downsample.1."]
    for stage, depth in enumerate(model.config.depths, start=2):
        row += [f"stages.{stage}.downsample."] if stage > 2 else []
        row += [f"stages.{stage}.blocks.{index}." for index in range(depth)]
    places = {f"features.{number}.": place for number, place in enumerate(row)}
    rules = [(r"^features\.\d+\.", lambda match: places.get(match[0], match[0]))]
    return {rename(name, rules): tensor for name, tensor in state.items()}
