"""Polyhistor: adapters for many dense tasks, written by small networks that all tasks share.

"Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks" (arXiv 2210.03265). The backbone is
frozen; what a task knows is one embedding. Every task needs a pass of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import Backbone
from ommatid.models.config import PartConfig, require, require_positive, require_stages
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register
from ommatid.nn.block import Stage

Kernels = tuple[Tensor, Tensor]
"""Of an adapter for c channels: down (c / reduction, c) and up (c, c / reduction)."""


def adapt(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """A residual bottleneck: x + up GELU(down x), (..., C) -> (..., C)."""
    return x + F.linear(F.gelu(F.linear(x, down)), up)


class DecomposedHyperNetwork(nn.Module):
    """A kernel of low rank for an embedding: (k,) -> (rows, columns), with k r (rows + columns) parameters.

    A plain hyper-network would have k rows columns. Any rank above the smaller side adds nothing.
    """

    def __init__(self, embedding_dim: int, rows: int, columns: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.left = nn.Linear(embedding_dim, rows * rank, bias=False)
        self.right = nn.Linear(embedding_dim, rank * columns, bias=False)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.left(embedding).view(-1, self.rank) @ self.right(embedding).view(self.rank, -1)


class LayerHyperNetworks(nn.Module):
    """Polyhistor: hyper-networks for every layer, shared by the tasks. The number of a task -> kernels of every layer.

    At first all adapters are the identity.

    Args:
        tasks: T. dims: C of every layer.
        embedding_dim: k. reduction: C over the width of the bottleneck. rank: of the kernels.
    """

    def __init__(self, tasks: int, dims: Sequence[int], *, embedding_dim: int, reduction: int, rank: int) -> None:
        super().__init__()
        self.task_embedding = nn.Parameter(torch.randn(tasks, embedding_dim))
        self.down = nn.ModuleList(DecomposedHyperNetwork(embedding_dim, dim // reduction, dim, rank) for dim in dims)
        self.up = nn.ModuleList(DecomposedHyperNetwork(embedding_dim, dim, dim // reduction, rank) for dim in dims)
        for network in self.up:
            nn.init.zeros_(network.get_parameter("right.weight"))

    def forward(self, task: int) -> list[Kernels]:
        embedding = self.task_embedding[task]
        return [(down(embedding), up(embedding)) for down, up in zip(self.down, self.up, strict=True)]


class ScaledTemplates(nn.Module):
    """Polyhistor-Lite: kernels of the first width for every task, scaled to each layer by a small matrix of its own.

    Arguments and answers are those of `LayerHyperNetworks`. A layer s times as wide as the first has two s x s
    matrices; its kernels are their Kronecker products with the task's. At first all adapters are the identity.
    """

    def __init__(self, tasks: int, dims: Sequence[int], *, embedding_dim: int, reduction: int, rank: int) -> None:
        super().__init__()
        inner, dim = dims[0] // reduction, dims[0]
        scales = [width // dim for width in dims]
        self.task_embedding = nn.Parameter(torch.randn(tasks, embedding_dim))
        self.down = DecomposedHyperNetwork(embedding_dim, inner, dim, rank)
        self.up = DecomposedHyperNetwork(embedding_dim, dim, inner, rank)
        self.scale_down = nn.ParameterList(torch.eye(scale) + 0.01 * torch.randn(scale, scale) for scale in scales)
        self.scale_up = nn.ParameterList(torch.zeros(scale, scale) for scale in scales)

    def forward(self, task: int) -> list[Kernels]:
        embedding = self.task_embedding[task]
        down, up = self.down(embedding), self.up(embedding)
        pairs = zip(self.scale_down, self.scale_up, strict=True)
        return [(torch.kron(scale_down, down), torch.kron(scale_up, up)) for scale_down, scale_up in pairs]


def hyper_networks(
    tasks: int,
    dims: Sequence[int],
    depths: Sequence[int],
    *,
    lite: bool = True,
    embedding_dim: int = 64,
    reduction: int = 8,
    rank: int = 4,
) -> LayerHyperNetworks | ScaledTemplates:
    """Kernels for all blocks of a pyramid with stages of these widths and depths.

    Raises:
        ValueError: a width that `reduction` does not divide, or that is no multiple of the first, where `lite`.
    """
    check_widths(dims, depths, lite, reduction)
    kind = ScaledTemplates if lite else LayerHyperNetworks
    layers = [dim for dim, depth in zip(dims, depths, strict=True) for _ in range(depth)]
    return kind(tasks, layers, embedding_dim=embedding_dim, reduction=reduction, rank=rank)


def check_widths(dims: Sequence[int], depths: Sequence[int], lite: bool, reduction: int) -> None:
    require_stages(dims=dims, depths=depths)
    require_positive(dims=tuple(dims), depths=tuple(depths), reduction=reduction)
    require(all(dim % reduction == 0 for dim in dims), "dims", tuple(dims), f"multiples of the reduction ({reduction})")
    multiples = all(dim % dims[0] == 0 for dim in dims)
    require(multiples or not lite, "dims", tuple(dims), f"multiples of the first width ({dims[0]})")


class AdaptedBackbone(nn.Module):
    """A frozen pyramid whose blocks are each followed by a task's adapter: (image, task) -> what the pyramid answers.

    Args:
        backbone: with stages of blocks, such as Swin or PVT. Its parameters are frozen.
        tasks: how many there are.
        adapters: further arguments of `hyper_networks`.

    Raises:
        ValueError: a backbone without stages of blocks, or widths that are not possible.
    """

    def __init__(self, backbone: Backbone, tasks: int, **adapters: Any) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        depths = [len(stage.blocks) for stage in stages_of(backbone)]
        self.adapters = hyper_networks(tasks, backbone.channels, depths, **adapters)

    def forward(self, image: Tensor, task: int) -> Tensor:
        return self._adapted(task, self.backbone, image)

    def features(self, image: Tensor, task: int) -> list[Tensor]:
        """One map (B, C, H, W) of every stage, fine to coarse, as a dense task's decoder takes them."""
        return self._adapted(task, self.backbone.features, image)

    def for_task(self, task: int) -> Backbone:
        """A copy of the backbone with the task's adapters in it: what is used once training is over."""
        adapted = copy.deepcopy(self.backbone)
        kernels = iter(self.adapters(task))
        for stage in stages_of(adapted):
            stage.blocks = nn.Sequential(*(AdaptedBlock(block, *next(kernels)) for block in stage.blocks))
        return adapted

    def _adapted(self, task: int, function: Any, image: Tensor) -> Any:
        blocks = [block for stage in stages_of(self.backbone) for block in stage.blocks]
        hooks = [
            block.register_forward_hook(partial(_adapt_output, kernels=kernels))
            for block, kernels in zip(blocks, self.adapters(task), strict=True)
        ]
        try:
            return function(image)
        finally:
            for hook in hooks:
                hook.remove()


class AdaptedBlock(nn.Module):
    """A block and, behind it, an adapter with kernels of its own."""

    def __init__(self, block: nn.Module, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.block = block
        self.down, self.up = nn.Parameter(down.detach().clone()), nn.Parameter(up.detach().clone())

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return adapt(self.block(x, *context), self.down, self.up)


def _adapt_output(block: nn.Module, inputs: Any, output: Tensor, *, kernels: Kernels) -> Tensor:
    return adapt(output, *kernels)


def stages_of(backbone: Backbone) -> list[Stage]:
    stages = list(getattr(backbone, "stages", []))
    fits = len(stages) > 0 and all(isinstance(stage, Stage) for stage in stages)
    require(fits, "backbone", type(backbone).__name__, "a pyramid with stages of blocks, such as swin or pvt")
    return stages


@dataclass(frozen=True, kw_only=True)
class PolyhistorConfig(PartConfig):
    """`task` says whose adapters are at work in a case, `store` which layers' kernels it looks at."""

    function: Literal["adapters"] = "adapters"
    lite: bool = True
    tasks: int = 4
    task: int = 0
    embedding_dim: int = 64
    dims: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    reduction: int = 8
    rank: int = 4
    store: tuple[int, ...] = ()

    def check(self) -> None:
        require_positive(tasks=self.tasks, embedding_dim=self.embedding_dim, rank=self.rank)
        require(0 <= self.task < self.tasks, "task", self.task, f"from 0 to {self.tasks - 1}")
        check_widths(self.dims, self.depths, self.lite, self.reduction)


@register("polyhistor", PolyhistorConfig)
class Polyhistor(Procedure):
    """x0, x1, ... (B, N, C), one for each layer -> y0, y1, ... of the same shapes, and downI, upI of stored layers."""

    config: PolyhistorConfig

    def __init__(self, config: PolyhistorConfig) -> None:
        super().__init__(config)
        self.adapters = hyper_networks(
            config.tasks,
            config.dims,
            config.depths,
            lite=config.lite,
            embedding_dim=config.embedding_dim,
            reduction=config.reduction,
            rank=config.rank,
        )

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        answers = {}
        for layer, (down, up) in enumerate(self.adapters(self.config.task)):
            answers[f"y{layer}"] = adapt(inputs[f"x{layer}"], down, up)
            if layer in self.config.store:
                answers |= {f"down{layer}": down, f"up{layer}": up}
        return answers


VARIANTS = {
    "polyhistor_lite_swin_tiny": PolyhistorConfig(),
    "polyhistor_swin_tiny": PolyhistorConfig(lite=False),
}

REFERENCE_NAMES = [(r"^", "adapters.")]
