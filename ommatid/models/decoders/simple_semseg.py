"""FFNet: a ResNet under a small feature pyramid network is all that segmentation needs.

"Simple and Efficient Architectures for Semantic Segmentation" (arXiv 2206.08236).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive, require_stages
from ommatid.models.decoders.up_head import EMBED_DIM, ImageHead, PixelHead, Resize, UpHead
from ommatid.models.dense import Segmenter
from ommatid.models.names import RESNET_BLOCK_NAMES
from ommatid.models.reference import zero_based
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_at_least
from ommatid.nn.block import pyramid
from ommatid.nn.conv import ConvNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.resnet import basic_block, bottleneck_block, resnet_stage, resnet_stem
from ommatid.ops.resize import resample

BLOCKS = {"basic": (basic_block, 1), "bottleneck": (bottleneck_block, 4)}
"""Each with how much wider than its convolution its map is."""

STEM_DIM = 64
SIGMA = 0.7
"""Of the Gaussian in front of the network, in pixels."""


@dataclass(frozen=True, kw_only=True)
class FFNetConfig(Config):
    """`backbone` is a ResNet with its own stem ("resnet"), with two convolutions for one ("resnet_s"), or of three
    stages behind three convolutions ("resnet_narrow"), the last of which is `dims[0]` wide and the finest map.

    `dims` are inner widths of the stages, a fourth of the maps' with bottlenecks. `head_type` gives the widths of the
    up-head; the letter of `task` those of the segmentation head.
    """

    backbone: Literal["resnet", "resnet_s", "resnet_narrow"] = "resnet_s"
    block: Literal["basic", "bottleneck"] = "basic"
    depths: tuple[int, ...] = (4, 5, 6, 4)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    dims: tuple[int, ...] = (64, 128, 192, 320)
    head_type: Literal["A", "B", "C", "A_mobile", "B_mobile", "C_mobile"] = "B_mobile"
    task: Literal["segmentation_A", "segmentation_B", "segmentation_C", "classification"] = "classification"
    pre_downsampling: bool = False

    def check(self) -> None:
        stages = 3 if self.narrow else 4
        require(len(self.depths) == stages, "depths", self.depths, f"{stages} stages, of a {self.backbone}")
        require_stages(depths=self.depths, strides=self.strides)
        require(len(self.dims) == 4, "dims", self.dims, "the widths of four maps")
        require_positive(depths=self.depths, strides=self.strides, dims=self.dims)
        if self.part:
            require_positive(num_classes=self.num_classes)
        else:
            halves = all(stride == 2 for stride in self.strides[len(self.strides) - 3 :])
            require(halves, "strides", self.strides, "2 for each of the last three stages, for classification")

    @property
    def narrow(self) -> bool:
        return self.backbone == "resnet_narrow"

    @property
    def part(self) -> str | None:
        """Which of the registered classes it is of."""
        return None if self.task == "classification" else "segmentation"

    @property
    def kind(self) -> str:
        return self.head_type[0]

    @property
    def resize(self) -> Resize:
        return "nearest" if self.head_type.endswith("_mobile") else "bilinear"


class Smoothing(nn.Module):
    """Halves an image through a Gaussian, 5x5: (B, H, W, C) -> (B, (H - 3) // 2 + 1, (W - 5) // 2 + 1, C).

    A row is mirrored at the top and at the bottom, as published; no columns are. The Gaussian has 7 taps, of which the
    outermost fall on their neighbours.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / (2 * SIGMA**2))
        line = taps[1:6].clone()
        line[[0, -1]] += taps[0]
        line = line / taps.sum()
        self.register_buffer("kernel", torch.outer(line, line), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        mirrored = F.pad(image.permute(0, 3, 1, 2), (0, 0, 1, 1), mode="reflect")
        channels = mirrored.shape[1]
        kernel = self.kernel.to(mirrored.dtype).expand(channels, 1, -1, -1)
        return F.conv2d(mirrored, kernel, stride=2, groups=channels).permute(0, 2, 3, 1)


class Trunk(nn.Module):
    """The ResNet: image (B, C_in, H, W) -> four maps (B, H_i, W_i, C_i), fine to coarse.

    Attributes:
        channels, strides: of the maps.
    """

    def __init__(self, config: FFNetConfig) -> None:
        super().__init__()
        block, expansion = BLOCKS[config.block]
        widths = [expansion * dim for dim in config.dims[-len(config.depths) :]]
        rates = stochastic_depth(config.drop_path_rate, config.depths)
        self.smallest = 5 if config.pre_downsampling else 1
        self.smoothing = Smoothing() if config.pre_downsampling else nn.Identity()
        self.stem = make_stem(config)
        in_dims = [config.dims[0] if config.narrow else STEM_DIM, *widths]
        self.stages = nn.ModuleList(
            resnet_stage(in_dims[i], width, rates[i], stride=config.strides[i], block=block)
            for i, width in enumerate(widths)
        )
        self.stem_is_map = config.narrow
        first = 8 if config.pre_downsampling else 4
        strides = [first * math.prod(config.strides[:count]) for count in range(len(widths) + 1)]
        self.channels = tuple([*in_dims[:1], *widths][-4:])
        self.strides = tuple(strides[-4:])

    def forward(self, image: Tensor) -> list[Tensor]:
        require_at_least(image, self.smallest)
        x = self.stem(self.smoothing(channels_last(image)))
        maps = pyramid(self.stages, x)
        return [x, *maps] if self.stem_is_map else maps


def make_stem(config: FFNetConfig) -> nn.Sequential:
    """(B, H, W, C_in) -> (B, ceil(H/4), ceil(W/4), 64), or as wide as the finest map of a "resnet_narrow"."""
    if config.backbone == "resnet":
        return resnet_stem(config.in_channels, STEM_DIM)
    dims = [STEM_DIM, STEM_DIM, config.dims[0]] if config.narrow else [STEM_DIM // 2, STEM_DIM]
    in_dims = [config.in_channels, *dims]
    return nn.Sequential(
        *(ConvNorm(in_dims[i], dim, 3, stride=2 if i < 2 else 1, act=nn.ReLU()) for i, dim in enumerate(dims))
    )


@register("simple_semseg", FFNetConfig)
class FFNetClassifier(Backbone):
    """The network with its classification head, in which it learns from images as a whole."""

    config: FFNetConfig

    def __init__(self, config: FFNetConfig) -> None:
        super().__init__(config)
        self.trunk = Trunk(config)
        self.channels, self.strides = self.trunk.channels, self.trunk.strides
        self.up_head = UpHead(self.channels, config.kind, config.resize)
        self.image_head = ImageHead(config.kind)
        self.head = classifier(EMBED_DIM, config.num_classes)
        self.apply(init_)

    @property
    def embed_dim(self) -> int:
        return EMBED_DIM

    def maps(self, image: Tensor) -> list[Tensor]:
        return self.trunk(image)

    def embed(self, image: Tensor) -> Tensor:
        return self.image_head(self.up_head(self.maps(image)))


@register_part("simple_semseg", "segmentation")
class FFNet(Segmenter):
    """Image (B, C_in, H, W) -> logits (B, K, H, W), enlarged from those of the cells of the finest map."""

    config: FFNetConfig

    def __init__(self, config: FFNetConfig) -> None:
        super().__init__(config)
        self.num_classes = config.num_classes
        self.trunk = Trunk(config)
        self.up_head = UpHead(self.trunk.channels, config.kind, config.resize)
        self.pixel_head = PixelHead(config.kind, config.task[-1], config.num_classes, config.resize)
        self.apply(init_)

    def forward(self, image: Tensor) -> Tensor:
        cells = self.pixel_head(self.up_head(self.trunk(image)))
        return resample(cells, (image.shape[2], image.shape[3]), mode="bilinear").permute(0, 3, 1, 2)


def init_(layer: nn.Module) -> None:
    """Convolutions: weights from N(0, 0.01), biases 1e-4. Linear layers: uniform up to fan_out^-0.5, biases 0."""
    if isinstance(layer, nn.Conv2d):
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 1e-4)
    if isinstance(layer, nn.Linear):
        limit = layer.out_features**-0.5
        nn.init.uniform_(layer.weight, -limit, limit)
        nn.init.zeros_(layer.bias)


def reference_outputs(model: FFNet | FFNetClassifier, image: Tensor) -> dict[str, Tensor]:
    """Logits of pixels are those of the cells of the finest map; those of a single image have lost its axis."""
    maps = model.trunk(image)
    levels = model.up_head(maps)
    outputs = {f"stage{index}": features.permute(0, 3, 1, 2) for index, features in enumerate(maps)}
    outputs |= {"up32": levels[-1].permute(0, 3, 1, 2), "up4_every8": levels[0].permute(0, 3, 1, 2)[:, ::8]}
    if isinstance(model, FFNetClassifier):
        logits = model.head(model.image_head(levels))
        return outputs | {"logits": logits[0] if len(logits) == 1 else logits}
    logits = model.pixel_head(levels).permute(0, 3, 1, 2)
    return outputs | {"logits": logits, "logits_stride8": logits[..., ::8, ::8]}


Depths = dict[int, tuple[int, ...]]
"""Blocks of each stage by the number of layers that a network is named by."""

_NARROW: Depths = {46: (6, 8, 8), 74: (8, 12, 16), 122: (16, 24, 20)}
_SLIM: Depths = {40: (4, 5, 6, 4), 54: (5, 8, 8, 5), 78: (6, 12, 12, 8), 86: (8, 12, 16, 6), 150: (16, 18, 28, 12)}
_BASIC: Depths = {34: (3, 4, 6, 3), 56: (4, 8, 12, 3), 86: (8, 12, 16, 6), 134: (8, 18, 28, 12), 150: (16, 18, 28, 12)}
_BOTTLENECK: Depths = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

_BBB_MOBILE = FFNetConfig(task="segmentation_B", num_classes=19)
_CBB_MOBILE = _BBB_MOBILE.replace(
    backbone="resnet_narrow", depths=_NARROW[46], strides=(2, 2, 2), dims=(64, 64, 128, 256)
)
_AAA = _BBB_MOBILE.replace(backbone="resnet", dims=(64, 128, 256, 512), head_type="A", task="segmentation_A")


def _family(name: str, depths: Depths, config: FFNetConfig, **fields: Any) -> dict[str, FFNetConfig]:
    return {name.format(layers): config.replace(depths=blocks, **fields) for layers, blocks in depths.items()}


VARIANTS = {
    **_family("ffnet{}ns_ccc_mobile", _NARROW, _CBB_MOBILE, head_type="C_mobile", task="segmentation_C"),
    **_family("ffnet{}ns_cbb_mobile", _NARROW, _CBB_MOBILE),
    **_family("ffnet{}n_cbb", _NARROW, _CBB_MOBILE, head_type="B", dims=(64, 96, 160, 320)),
    **_family("ffnet{}s_bbb_mobile", _SLIM, _BBB_MOBILE),
    **_family("ffnet{}s_bbx_mobile", _SLIM, _BBB_MOBILE, task="classification", num_classes=1000),
    **_family("ffnet{}_aaa", _BASIC, _AAA),
    **_family("ffnet{}_aaa", _BOTTLENECK, _AAA, block="bottleneck"),
    "ffnet18_daac": _AAA.replace(depths=(2, 2, 2, 2), strides=(2, 2, 2, 2), task="segmentation_C"),
}

_UP_HEAD = r"^head\.layers\.1\.fam_"
_IMAGE_HEAD = r"^head\.layers\.2\."
_LEVELS = {"4": 0, "8": 1, "16": 2, "32": 3}

REFERENCE_NAMES = [
    (r"^backbone_model\.layer(\d)\.", zero_based("trunk.stages.{}.")),
    (r"^backbone_model\.conv(\d)\.", r"trunk.stem.\1.conv."),
    (r"^backbone_model\.bn(\d)\.", r"trunk.stem.\1.norm."),
    (r"^head\.layers\.0\.adapter_conv\.(\d)\.", r"up_head.adapters.\1."),
    (_UP_HEAD + r"(\d+)_up\.", lambda match: f"up_head.handing.{_LEVELS[match[1]] - 1}."),
    (_UP_HEAD + r"(\d+)(?:_sm)?\.", lambda match: f"up_head.smoothing.{_LEVELS[match[1]]}."),
    (r"^(up_head\..*)layers\.0\.", r"\1conv."),
    (r"^(up_head\..*)layers\.1\.", r"\1norm."),
    (r"^head\.layers\.3\.last_layer\.0\.", "pixel_head.fuse.conv."),
    (r"^head\.layers\.3\.last_layer\.1\.", "pixel_head.fuse.norm."),
    (r"^head\.layers\.3\.last_layer\.3\.", "pixel_head.classifier."),
    (_IMAGE_HEAD + r"classifier\.", "head."),
    (_IMAGE_HEAD + r"expansion_layers\.", "image_head.widen."),
    (_IMAGE_HEAD + r"downsampling_layers\.(\d)\.0\.", r"image_head.reduce.\1.conv."),
    (_IMAGE_HEAD + r"downsampling_layers\.(\d)\.1\.", r"image_head.reduce.\1.norm."),
    (_IMAGE_HEAD + r"final_layer\.0\.", "image_head.proj.conv."),
    (_IMAGE_HEAD + r"final_layer\.1\.", "image_head.proj.norm."),
    *RESNET_BLOCK_NAMES,
]

REFERENCE_IGNORED = [r"smoothing\.weight$"]


def convert_reference(state: dict[str, Tensor], model: FFNet | FFNetClassifier) -> dict[str, Tensor]:
    """A ResNet's stem has one convolution, counted from 1; the others' are counted from 0."""
    if model.config.backbone != "resnet":
        return state
    stem = ("backbone_model.conv1.", "backbone_model.bn1.")
    return {name.replace("1.", "0.", 1) if name.startswith(stem) else name: value for name, value in state.items()}
