"""Mamba-YOLO: a detector whose backbone and neck look around by selective scans.

"Mamba YOLO: A Simple Baseline for Object Detection with State Space Model" (arXiv 2406.05835).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.decoders.row_detector import RowDetector, detector_outputs
from ommatid.models.decoders.rows import (
    DETECTOR_NORMS,
    Graph,
    Made,
    Maker,
    RowGraph,
    Scaling,
    canonical,
    concat,
    rows_of,
    set_batch_norms_,
    sppf,
    upsample,
)
from ommatid.models.model import Model
from ommatid.models.reference import changed
from ommatid.models.registry import register, register_part
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.embed import joined_squares
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers.ss2d import ALL_DIRECTIONS, SS2D, CrossScan
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import ConvPosition
from ommatid.nn.residual import Residual
from ommatid.nn.selective_scan import SelectiveScan

STATE_DIM = 16
EXPANSION = 2
"""Width of the scans, in widths of the map."""

MLP_RATIO = 4
STAGE1 = 3
"""The row whose map the reference cases call so."""

GRAPH: Graph = (
    *((-1, "stem", 128, 3), (-1, "vss", 128, 3)),
    *((-1, "merge", 256), (-1, "vss", 256, 3)),
    *((-1, "merge", 512), (-1, "vss", 512, 9)),
    *((-1, "merge", 1024), (-1, "vss", 1024, 3), (-1, "sppf", 1024, 5)),
    *((-1, "upsample"), ((-1, 5), "concat"), (-1, "xss", 512, 3)),
    *((-1, "upsample"), ((-1, 3), "concat"), (-1, "xss", 256, 3)),
    *((-1, "conv", 256, 3, 2), ((-1, 11), "concat"), (-1, "xss", 512, 3)),
    *((-1, "conv", 512, 3, 2), ((-1, 8), "concat"), (-1, "xss", 1024, 3)),
    ((14, 17, 20), "detect"),
)


@dataclass(frozen=True, kw_only=True)
class MambaYOLOConfig(PartConfig):
    """`graph`: rows [from, kind, arguments...]. Without a row "detect" at the end, the model is its rows alone.

    A width c becomes min(c, max_channels) times `width`, rounded up to a multiple of 8; n repeats become n times
    `depth`, rounded, at least 1.
    """

    graph: Graph = GRAPH
    width: float = 1.0
    depth: float = 1.0
    max_channels: int = 1024
    in_channels: int = 3
    num_classes: int = 80

    def check(self) -> None:
        require_positive(width=self.width, depth=self.depth, max_channels=self.max_channels)
        require_positive(in_channels=self.in_channels, num_classes=self.num_classes)
        object.__setattr__(self, "graph", canonical(self.graph))

    @property
    def part(self) -> Literal["detector", "rows"]:
        return "detector" if self.graph[-1][1] == "detect" else "rows"

    @property
    def scaling(self) -> Scaling:
        return Scaling(self.width, self.max_channels, self.num_classes, self.depth)


class ResidualGatedMLP(nn.Module):
    """GELU of one half and its 3x3 depthwise convolution, times the other half: (B, H, W, C) -> (B, H, W, C).

    Cost: H W (3 r C^2 + 9 r C) multiply-adds, with r = hidden / C.

    Args:
        dim: C.
        hidden: width of each half.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.conv = ConvPosition(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(self.act(self.conv(gate)) * value)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.fc2, scale)


class ScanBlock(nn.Module):
    """Selective scans of what a local block makes of a map, then a gated MLP: (B, H, W, C_in) -> (B, H, W, C).

    Both are residual branches of the projected map, which the local block is not part of. With `scans` 1 it is the ODSS
    block of the backbone.

    Args:
        dim: C.
        project: leads from C_in to C.
        scans: number of scans, one behind the other.
    """

    def __init__(self, dim: int, project: nn.Module, scans: int) -> None:
        super().__init__()
        self.project = project
        local = nn.Sequential(ConvNorm(dim, dim, 3, groups=dim, bias=True), MLP(dim, dim))
        self.local = Residual(dim, local, norm=nn.Identity)
        self.norm = LayerNorm(dim)
        self.scans = nn.Sequential(*(scan(dim) for _ in range(scans)))
        self.mlp = Residual(dim, ResidualGatedMLP(dim, 2 * MLP_RATIO * dim // 3), norm=LayerNorm)

    def forward(self, features: Tensor) -> Tensor:
        x = self.project(features)
        return self.mlp(x + self.scans(self.norm(self.local(x))))


def scan(dim: int) -> SS2D:
    inner = EXPANSION * dim
    ssm = CrossScan(inner, state_dim=STATE_DIM, dt_rank=-(-dim // 16), act=nn.GELU())
    return SS2D(dim, inner, ssm, act=nn.GELU())


class ClueMerging(nn.Module):
    """Joins each 2x2 square into one cell: (B, H, W, C_in) -> (B, H / 2, W / 2, C), by a 1x1 convolution.

    The squares' cells lie side by side column by column. Cost: H W C_in C multiply-adds.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = ConvNorm(4 * in_dim, dim, 1, bias=True, act=nn.SiLU())

    def forward(self, features: Tensor) -> Tensor:
        return self.proj(joined_squares(features))


def stem(scaling: Scaling, dims: list[int], channels: int, kernel_size: int) -> Made:
    require_odd(kernel_size)
    dim = scaling.dim(channels)
    first = ConvNorm(dims[0], dim // 2, kernel_size, stride=2, act=nn.GELU())
    return Made(nn.Sequential(first, ConvNorm(dim // 2, dim, kernel_size, stride=2, act=nn.SiLU())), dim, Fraction(4))


def vss(scaling: Scaling, dims: list[int], channels: int, count: int) -> Made:
    """Blocks of one scan each, whose projections are always there."""
    in_dim, dim, repeats = dims[0], scaling.dim(channels), scaling.repeats(count)
    require(repeats == 1 or in_dim == dim, "channels", channels, f"those of the input ({in_dim}), for several blocks")
    blocks = [ScanBlock(dim, ConvNorm(in_dim, dim, 1, bias=True, act=nn.SiLU()), 1) for _ in range(repeats)]
    return Made(nn.Sequential(*blocks), dim)


def xss(scaling: Scaling, dims: list[int], channels: int, count: int) -> Made:
    """One block of several scans, with a projection only where the width changes."""
    in_dim, dim = dims[0], scaling.dim(channels)
    project = nn.Identity() if in_dim == dim else ConvNorm(in_dim, dim, 1, act=nn.SiLU())
    return Made(ScanBlock(dim, project, scaling.repeats(count)), dim)


def merge(scaling: Scaling, dims: list[int], channels: int) -> Made:
    dim = scaling.dim(channels)
    return Made(ClueMerging(dims[0], dim), dim, Fraction(2))


def conv(scaling: Scaling, dims: list[int], channels: int, kernel_size: int, stride: int) -> Made:
    require_odd(kernel_size)
    dim = scaling.dim(channels)
    return Made(ConvNorm(dims[0], dim, kernel_size, stride=stride, act=nn.SiLU()), dim, Fraction(stride))


def require_odd(kernel_size: int) -> None:
    require(kernel_size % 2 == 1, "kernel_size", kernel_size, "an odd number")


MAKERS: dict[str, Maker] = {
    "stem": stem,
    "vss": vss,
    "merge": merge,
    "xss": xss,
    "conv": conv,
    "sppf": sppf,
    "upsample": upsample,
    "concat": concat,
}


def branch(in_dim: int, hidden: int, out_dim: int) -> nn.Sequential:
    """Two 3x3 convolutions, and a 1x1 one that answers."""
    return nn.Sequential(
        ConvNorm(in_dim, hidden, 3, act=nn.SiLU()),
        ConvNorm(hidden, hidden, 3, act=nn.SiLU()),
        Conv2d(hidden, out_dim, 1),
    )


@register("mamba_yolo", MambaYOLOConfig)
class MambaYOLO(RowDetector):
    """A graph that ends with "detect". Its rows are computed as `precise_maps` says, its head as autocast wants it."""

    config: MambaYOLOConfig
    no_decay = ("A_log", ".D")

    def __init__(self, config: MambaYOLOConfig) -> None:
        super().__init__(
            config,
            config.graph,
            in_channels=config.in_channels,
            scaling=config.scaling,
            makers=MAKERS,
            branch=branch,
        )
        self.apply(init_scan_)

    def maps(self, image: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        return precise_maps(self.rows, image, wanted)


@register_part("mamba_yolo", "rows")
class MambaYOLORows(Model):
    """Images (B, in_channels, H, W) -> y{i} (B, C_i, H_i, W_i), what each row gives; padded as for the detector."""

    config: MambaYOLOConfig
    no_decay = ("A_log", ".D")

    def __init__(self, config: MambaYOLOConfig) -> None:
        super().__init__(config)
        self.rows = RowGraph(rows_of(config.graph), config.in_channels, MAKERS, config.scaling)
        set_batch_norms_(self, **DETECTOR_NORMS)
        self.apply(init_scan_)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = precise_maps(self.rows, image, range(len(self.rows.layers)))
        return {f"y{index}": features.permute(0, 3, 1, 2) for index, features in enumerate(maps)}


def precise_maps(rows: RowGraph, image: Tensor, wanted: Sequence[int]) -> list[Tensor]:
    """The maps of some rows, in the precision of the weights also under autocast.

    Every block makes errors of rounding two or three times larger: over all of them, 16 bits are too few.
    """
    with torch.autocast(image.device.type, enabled=False):
        whole = rows.padded(image.to(next(rows.parameters()).dtype))
        return rows(channels_last(whole), wanted)


def init_scan_(layer: nn.Module) -> None:
    """Scans as this system is published: every state decays alike, step sizes from N(0, 1)."""
    if isinstance(layer, SelectiveScan):
        nn.init.zeros_(layer.A_log)
        nn.init.normal_(layer.dt_proj)
        nn.init.normal_(layer.dt_bias)


def reference_outputs(model: MambaYOLO | MambaYOLORows, image: Tensor) -> dict[str, Tensor]:
    if isinstance(model, MambaYOLORows):
        return model(image)
    (stage1,) = model.maps(image, (STAGE1,))
    return detector_outputs(model, image) | {"stage1": stage1.permute(0, 3, 1, 2)}


TINY = MambaYOLOConfig(depth=0.33, width=0.25)

VARIANTS = {
    "mamba_yolo_t": TINY,
    "mamba_yolo_b": TINY.replace(width=0.5),
    "mamba_yolo_l": TINY.replace(depth=0.67, width=0.75, max_channels=768),
}

REFERENCE_NAMES = [
    (r"^model\.\d+\.cv2\.(\d+)\.", r"head.boxes.\1."),
    (r"^model\.\d+\.cv3\.(\d+)\.", r"head.classes.\1."),
    (r"^model\.\d+\.dfl\.conv\.weight$", "head.distances"),
    (r"^model\.(\d+)\.cv1\.", r"rows.layers.\1.reduce."),
    (r"^model\.(\d+)\.cv2\.", r"rows.layers.\1.proj."),
    (r"^model\.(\d+)\.conv\.([03])\.", lambda match: f"rows.layers.{match[1]}.{int(match[2]) // 3}.conv."),
    (r"^model\.(\d+)\.conv\.([14])\.", lambda match: f"rows.layers.{match[1]}.{int(match[2]) // 3}.norm."),
    (r"^model\.", "rows.layers."),
    (r"\.pw_linear\.0\.", ".proj.conv."),
    (r"\.pw_linear\.1\.", ".proj.norm."),
    (r"\.(?:proj_conv|in_proj)\.0\.", ".project.conv."),
    (r"\.(?:proj_conv|in_proj)\.1\.", ".project.norm."),
    (r"\.norm\.norm\.", ".norm."),
    (r"\.norm2\.norm\.", ".mlp.norm."),
    (r"\.lsblock\.fc1\.", ".local.inner.0.conv."),
    (r"\.lsblock\.norm\.", ".local.inner.0.norm."),
    (r"\.lsblock\.fc2\.", ".local.inner.1.fc1."),
    (r"\.lsblock\.fc3\.", ".local.inner.1.fc2."),
    (r"\.mlp\.(fc\d)\.", r".mlp.inner.\1."),
    (r"\.mlp\.dwconv\.", ".mlp.inner.conv.conv."),
    (r"\.ss2d\.", ".scans."),
    (r"\.op\.", ".scans.0."),
    (r"\.(in|out)_proj\.weight$", r".proj_\1.weight"),
    (r"\.conv2d\.", ".scan.conv."),
    (r"\.out_norm\.", ".scan.norm."),
    (r"\.x_proj_weight$", ".scan.ssm.x_proj"),
    (r"\.dt_projs_weight$", ".scan.ssm.dt_proj"),
    (r"\.dt_projs_bias$", ".scan.ssm.dt_bias"),
    (r"\.A_logs$", ".scan.ssm.A_log"),
    (r"\.Ds$", ".scan.ssm.D"),
    (r"\.bn\.", ".norm."),
]


def convert_reference(state: dict[str, Tensor], model: MambaYOLO | MambaYOLORows) -> dict[str, Tensor]:
    """Directions get an axis of their own; a single block of the backbone has no number there."""
    stacked = changed(state, r"\.(?:A_logs|Ds)$", lambda value: value.unflatten(0, (len(ALL_DIRECTIONS), -1)))
    converted = {}
    for name, value in stacked.items():
        owner, row, part, *rest = name.split(".")
        single = part in ("proj_conv", "op") or f"{owner}.{row}.proj_conv.0.weight" in state
        converted[".".join([owner, row, *(["0"] if single else []), part, *rest])] = value
    return converted
