"""WaveMix: tokens mix in a wavelet transform, at a resolution that never falls.

"WaveMix: A Resource-efficient Neural Network for Image Analysis" (arXiv 2205.14375); WaveMix-Lite is its form with
one level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive
from ommatid.models.registry import register
from ommatid.models.sizes import require_at_least
from ommatid.nn.conv import Conv2d
from ommatid.nn.mixers import WaveletMixer
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.residual import Residual, stochastic_depth


@dataclass(frozen=True, kw_only=True)
class WaveMixConfig(Config):
    """`patch_size` belongs to the "patchify" stem, `stride` (of each of its two convolutions) to the "strided" one.

    A `level` outside 1 to 4 acts as 1, as in the reference.
    """

    dim: int = 144
    depth: int = 7
    mlp_ratio: int = 2
    ff_channel: int = 144
    level: int = 1
    initial_conv: Literal["patchify", "strided"] = "strided"
    patch_size: int = 4
    stride: int = 1

    def check(self) -> None:
        require(self.dim > 0 and self.dim % 4 == 0, "dim", self.dim, "a positive multiple of 4")
        require_positive(
            mlp_ratio=self.mlp_ratio, ff_channel=self.ff_channel, patch_size=self.patch_size, stride=self.stride
        )
        require(self.depth >= 0, "depth", self.depth, "0 blocks or more")

    @property
    def levels(self) -> int:
        return self.level if 1 <= self.level <= 4 else 1


@register("wavemix", WaveMixConfig)
class WaveMix(Backbone):
    """WaveMix and WaveMix-Lite. The map after the stem must have sides that are multiples of 2 ** levels."""

    config: WaveMixConfig

    def __init__(self, config: WaveMixConfig) -> None:
        super().__init__(config)
        dim = config.dim
        self.channels = (dim,)
        self.strides = (config.patch_size if config.initial_conv == "patchify" else config.stride**2,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = patchify_stem(config) if config.initial_conv == "patchify" else strided_stem(config)
        self.blocks = nn.Sequential(
            *(
                Residual(
                    dim,
                    WaveletMixer(dim, dim * config.mlp_ratio, config.ff_channel, config.levels),
                    norm=nn.Identity,
                    drop_path=rate,
                )
                for rate in rates
            )
        )
        self.head = classifier(dim, config.num_classes)

    def maps(self, image: Tensor) -> list[Tensor]:
        cell, factor = self.strides[0], 2**self.config.levels
        require_at_least(image, cell)
        features = self.stem(channels_last(image))
        fits = features.shape[1] % factor == 0 and features.shape[2] % factor == 0
        require(
            fits,
            "image size",
            tuple(image.shape[-2:]),
            f"multiples of {cell * factor} (a map of multiples of {factor})",
        )
        return [self.blocks(features)]

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[0].mean((1, 2))


def patchify_stem(config: WaveMixConfig) -> nn.Sequential:
    dim, size = config.dim, config.patch_size
    return nn.Sequential(
        Conv2d(config.in_channels, dim // 4, 3, padding=1),
        Conv2d(dim // 4, dim // 2, 3, padding=1),
        Conv2d(dim // 2, dim, size, stride=size),
        nn.GELU(),
        BatchNorm2d(dim),
    )


def strided_stem(config: WaveMixConfig) -> nn.Sequential:
    dim, stride = config.dim, config.stride
    return nn.Sequential(
        Conv2d(config.in_channels, dim // 2, 3, stride=stride, padding=1),
        Conv2d(dim // 2, dim, 3, stride=stride, padding=1),
    )


def wavemix(dim: int, depth: int, **fields: Any) -> WaveMixConfig:
    return WaveMixConfig(dim=dim, depth=depth, ff_channel=dim, **fields)


VARIANTS = {
    "wavemix_lite_192_16": wavemix(192, 16, initial_conv="patchify"),
    "wavemix_192_16_level3": wavemix(192, 16, level=3, initial_conv="patchify"),
    "wavemix_256_16_level3": wavemix(256, 16, level=3, initial_conv="patchify"),
    "wavemix_256_16_level4": wavemix(256, 16, level=4, stride=2),
    "wavemix_256_12_level2_places365": wavemix(
        256, 12, level=2, initial_conv="patchify", patch_size=8, num_classes=365
    ),
    "wavemix_lite_144_7_cifar10": wavemix(144, 7, num_classes=10),
    "wavemix_lite_320_8_cifar10": wavemix(320, 8, num_classes=10),
    "wavemix_lite_256_8_cifar100": wavemix(256, 8, num_classes=100),
    "wavemix_lite_256_10_cifar100": wavemix(256, 10, num_classes=100),
    "wavemix_lite_256_12_tinyimagenet": wavemix(256, 12, num_classes=200),
    "wavemix_lite_192_16_galaxy10": wavemix(192, 16, initial_conv="patchify", num_classes=10),
    "wavemix_192_16_level3_galaxy10": wavemix(192, 16, level=3, initial_conv="patchify", num_classes=10),
}

REFERENCE_NAMES = [
    (r"^conv\.", "stem."),
    (r"^layers\.(\d+)\.", r"blocks.\1.inner."),
    # Numbered from 1, the finest; a single level has no number.
    (r"\.feedforward(\d*)\.", lambda match: f".levels.{int(match[1] or 1) - 1}."),
    (r"\.levels\.(\d)\.0\.", r".levels.\1.fc1."),
    (r"\.levels\.(\d)\.3\.", r".levels.\1.fc2."),
    (r"\.levels\.(\d)\.4\.", r".levels.\1.up."),
    (r"\.levels\.(\d)\.5\.", r".levels.\1.norm."),
    (r"^pool\.2\.", "head."),
]


def reference_outputs(model: WaveMix, image: Tensor) -> dict[str, Tensor]:
    return {"stem": model.stem(channels_last(image)).permute(0, 3, 1, 2)}
