"""LeYOLO: a detector of few multiply-adds, of inverted bottlenecks nearly everywhere, and the classifier it grew from.

"LeYOLO, New Embedded Architecture for Object Detection" (arXiv 2406.14239).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_positive
from ommatid.models.decoders.row_detector import RowDetector, detector_outputs
from ommatid.models.decoders.rows import (
    Graph,
    Made,
    Maker,
    RowGraph,
    Scaling,
    canonical,
    concat,
    rows_of,
    sppf,
    upsample,
)
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.residual import Residual

CLASSIFIER_DIM, DROPOUT = 1024, 0.2

STEM: Graph = ((-1, "conv", 16, 3, 2), (-1, "conv", 16, 1, 1), (-1, "block", 16, 3, 16, 2, False))
"""Down to a quarter of the resolution."""


def same(kind: str, count: int, *arguments: int) -> Graph:
    """`count` blocks alike, of stride 1."""
    return ((-1, kind, *arguments, 1, True),) * count


def backbone_rows(extra: int = 0) -> Graph:
    """Down to a 32nd of the resolution; `extra` more blocks on each of the last three levels."""
    return (
        *STEM,
        *((-1, "block", 32, 3, 96, 2, True), *same("block", 1 + extra, 32, 3, 96)),
        *((-1, "block", 64, 5, 96, 2, True), *same("block", 4 + extra, 64, 5, 192)),
        *((-1, "block", 96, 5, 576, 2, True), *same("block", 3 + extra, 96, 5, 576)),
    )


def detector_rows(joined_hidden: int | None, extra: int = 0) -> Graph:
    """Backbone, the way up and down its pyramid, and the head.

    joined_hidden: width inside the first block on the finest joined map, that of the map where None. extra: further
    blocks, on each level of the backbone and on each way. With one, the rows that the head reads are no longer the last
    of the ways: so it was published, and what lies behind them is not run.
    """
    last = same("block", extra, 64, 5, 128)
    p3, p4, p5 = 4 + extra, 9 + 2 * extra, 14 + 3 * extra
    up = p5 + 5 + extra
    return (
        *backbone_rows(extra),
        *((-1, "sppf", 96, 5), (-1, "upsample"), ((-1, p4), "concat"), *same("block", 3, 64, 5, 128), *last),
        *((-1, "upsample"), ((-1, p3), "concat"), (-1, "block", 32, 3, joined_hidden, 1, False)),
        *(*same("block", 2, 32, 3, 64), *last),
        *((-1, "conv", 64, 3, 2), ((-1, up), "concat"), *same("block", 3, 64, 5, 128), *last),
        *((-1, "conv", 96, 3, 2), ((-1, p5), "concat"), *same("block", 3, 96, 5, 192), *last),
        ((24 + 3 * extra, 29 + 3 * extra, 34 + 3 * extra), "detect"),
    )


NANO_ROWS = detector_rows(96)


@dataclass(frozen=True, kw_only=True)
class LeYOLOConfig(Config):
    """`graph`: rows [from, kind, arguments...], the last of which is "detect" or "classify".

    A width c becomes min(c, max_channels) times `width`, rounded up to a multiple of 8.
    """

    graph: Graph = NANO_ROWS
    width: float = 1.0
    max_channels: int = 576
    num_classes: int = 80

    def check(self) -> None:
        require_positive(width=self.width, max_channels=self.max_channels)
        object.__setattr__(self, "graph", canonical(self.graph))
        last = self.graph[-1]
        require(last[1] in ("detect", "classify"), "graph[-1]", last, "a row 'detect' or 'classify'")

    @property
    def part(self) -> Literal["detector", "classifier"]:
        return "detector" if self.graph[-1][1] == "detect" else "classifier"

    @property
    def scaling(self) -> Scaling:
        return Scaling(self.width, self.max_channels, self.num_classes)


class BiasedBottleneck(nn.Module):
    """An inverted bottleneck whose convolutions all have biases: (B, H, W, C_in) -> (B, H', W', C).

    Cost: H W C_in E + H' W' (K^2 E + E C) multiply-adds.

    Args:
        in_dim: C_in. dim: C. hidden: E.
        kernel_size: K of the depthwise convolution, odd. stride: of the same.
        expand: whether there is a 1x1 convolution from C_in to E; E is C_in where there is none.
    """

    def __init__(self, in_dim: int, dim: int, hidden: int, kernel_size: int, stride: int, *, expand: bool) -> None:
        super().__init__()
        widen = ConvNorm(in_dim, hidden, 1, bias=True, act=nn.SiLU())
        self.expand = widen if expand else nn.Identity()
        self.conv = ConvNorm(hidden, hidden, kernel_size, stride=stride, groups=hidden, bias=True, act=nn.SiLU())
        self.reduce = ConvNorm(hidden, dim, 1, bias=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.reduce(self.conv(self.expand(features)))


def conv(scaling: Scaling, dims: list[int], channels: int, kernel_size: int, stride: int) -> Made:
    """A convolution without padding where its windows do not overlap, as published."""
    whole = kernel_size % 2 == 1 or kernel_size == stride
    require(whole, "kernel_size", kernel_size, f"an odd number, or the stride ({stride})")
    dim, padding = scaling.dim(channels), 0 if kernel_size == stride else None
    layer = ConvNorm(dims[0], dim, kernel_size, stride=stride, padding=padding, bias=True, act=nn.SiLU())
    return Made(layer, dim, Fraction(stride))


def block(
    scaling: Scaling,
    dims: list[int],
    channels: int,
    kernel_size: int,
    expansion: int | None,
    stride: int,
    pointwise: bool,
) -> Made:
    require(kernel_size % 2 == 1, "kernel_size", kernel_size, "an odd number")
    in_dim, dim = dims[0], scaling.dim(channels)
    hidden = in_dim if expansion is None else scaling.hidden(expansion)
    fits = pointwise or hidden == in_dim
    require(fits, "expansion", expansion, f"the width of the input ({in_dim}), where there is no pointwise convolution")
    layer: nn.Module = BiasedBottleneck(in_dim, dim, hidden, kernel_size, stride, expand=pointwise)
    if in_dim == dim and stride == 1:
        layer = Residual(dim, layer, norm=nn.Identity)
    return Made(layer, dim, Fraction(stride))


MAKERS: dict[str, Maker] = {"conv": conv, "block": block, "sppf": sppf, "upsample": upsample, "concat": concat}


def branch(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """Network in network: one 1x1 and two depthwise convolutions, and a 1x1 one that answers."""
    return nn.Sequential(
        ConvNorm(in_dim, hidden, 1, act=nn.SiLU()),
        *(ConvNorm(hidden, hidden, 3, groups=hidden, act=nn.SiLU()) for _ in range(2)),
        Conv2d(hidden, out_dim, 1),
    )


@register("leyolo", LeYOLOConfig)
class LeYOLO(Backbone):
    """A graph that ends with "classify": a 1x1 convolution, the mean, and a linear layer.

    The stages are the last maps of each resolution from a quarter of the image's on.
    """

    config: LeYOLOConfig

    def __init__(self, config: LeYOLOConfig) -> None:
        super().__init__(config)
        *rows, last = rows_of(config.graph)
        *_, previous = range(len(rows))
        ends = last.sources == (previous,) and not last.arguments
        require(ends, f"graph[{len(rows)}]", list(last), "[-1, 'classify']")
        self.rows = RowGraph(rows, config.in_channels, MAKERS, config.scaling)
        last_rows = {stride: index for index, stride in enumerate(self.rows.strides) if stride >= 4}
        require(bool(last_rows), "graph", config.graph, "rows that make a quarter of the resolution or less")
        self.ends = tuple(last_rows.values())
        self.strides = tuple(int(stride) for stride in last_rows)
        self.channels = tuple(self.rows.dims[row] for row in self.ends)
        self.conv = ConvNorm(self.channels[-1], CLASSIFIER_DIM, 1, act=nn.SiLU())
        self.dropout = nn.Dropout(DROPOUT)
        self.head = classifier(CLASSIFIER_DIM, config.num_classes)

    @property
    def embed_dim(self) -> int:
        return CLASSIFIER_DIM

    def maps(self, image: Tensor) -> list[Tensor]:
        return self.rows(channels_last(image), self.ends)

    def embed(self, image: Tensor) -> Tensor:
        return self.dropout(self.conv(self.maps(image)[-1]).mean((1, 2)))


@register_part("leyolo", "detector")
class LeYOLODetector(RowDetector):
    """A graph that ends with "detect"."""

    config: LeYOLOConfig

    def __init__(self, config: LeYOLOConfig) -> None:
        super().__init__(
            config,
            config.graph,
            in_channels=config.in_channels,
            scaling=config.scaling,
            makers=MAKERS,
            branch=branch,
        )


def reference_outputs(model: LeYOLO | LeYOLODetector, image: Tensor) -> dict[str, Tensor]:
    if isinstance(model, LeYOLODetector):
        return detector_outputs(model, image)
    return {"probabilities": model(image).softmax(-1)}


NANO = LeYOLOConfig()
SMALL = LeYOLOConfig(graph=detector_rows(None), width=1.33)
LARGE = LeYOLOConfig(graph=detector_rows(None, extra=1), width=1.33)

VARIANTS = {
    "leyolo_nano": NANO,
    "leyolo_nano_480": NANO,
    "leyolo_small_480": SMALL,
    "leyolo_small_640": SMALL,
    "leyolo_medium_640": LARGE,
    "leyolo_large_768": LARGE,
    "leyolo_nano_cls": LeYOLOConfig(graph=(*backbone_rows(), (-1, "classify")), num_classes=1000),
}

REFERENCE_NAMES = [
    (r"^model\.\d+\.cv2\.(\d+)\.", r"head.boxes.\1."),
    (r"^model\.\d+\.cv3\.(\d+)\.", r"head.classes.\1."),
    (r"^model\.\d+\.dfl\.conv\.weight$", "head.distances"),
    (r"^model\.\d+\.linear\.", "head."),
    (r"^model\.\d+\.conv\.conv\.", "conv.conv."),
    (r"^model\.\d+\.conv\.bn\.", "conv.norm."),
    (r"^model\.(\d+)\.cv1\.", r"rows.layers.\1.reduce."),
    (r"^model\.(\d+)\.cv2\.", r"rows.layers.\1.proj."),
    (r"^model\.(\d+)\.", r"rows.layers.\1."),
    (r"\.c\.", ".conv."),
    (r"\.bn\.", ".norm."),
]


def convert_reference(state: dict[str, Tensor], model: LeYOLO | LeYOLODetector) -> dict[str, Tensor]:
    """Blocks are stored as numbered layers; those without a first pointwise convolution count from the second."""
    converted = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[2] != "layers":
            converted[name] = value
            continue
        layer = model.rows.layers[int(parts[1])]
        residual = isinstance(layer, Residual)
        bottleneck = layer.inner if residual else layer
        assert isinstance(bottleneck, BiasedBottleneck)
        place = int(parts[3]) + isinstance(bottleneck.expand, nn.Identity)
        ours = ("expand", "conv", "reduce.conv", "reduce.norm")[place]
        owner = ".".join(["rows.layers", parts[1], *(["inner"] if residual else []), ours])
        converted[".".join([owner, *parts[4:]])] = value
    return converted
