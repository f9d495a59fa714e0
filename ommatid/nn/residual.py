"""Residual branches: x + drop(scale * inner(norm(x))), with layer scale and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import fold_affine_before_, offline_affine

MakeNorm = Callable[[int], nn.Module]


class Residual(nn.Module):
    """One residual branch around `inner`: (B, ..., C) -> (B, ..., C'). What else `inner` takes is handed on to it.

    Args:
        dim: C.
        inner: the token mixer, channel mixer or whatever the branch computes.
        norm: makes the norm of a width in front of `inner`; `nn.Identity` for none.
        layer_scale: initial value of the factor per channel; None where the factor does not exist.
        drop_path: stochastic depth rate.
        shortcut: what the input goes through before the branch is added to it, where `inner` changes its shape.
    """

    def __init__(
        self,
        dim: int,
        inner: nn.Module,
        *,
        norm: MakeNorm = nn.LayerNorm,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut or nn.Identity()
        self.norm = norm(dim)
        self.inner = inner
        self.scale = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.shortcut(x) + self.branch(x, *context)

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """What `forward` gives, where `inner` has been applied to the norm already."""
        return self.shortcut(x) + self.drop_path(self.scale(branch))

    def branch(self, x: Tensor, *context: Any) -> Tensor:
        """What `forward` adds to the shortcut."""
        return self.drop_path(self.scale(self.inner(self.norm(x), *context)))

    def deploy_(self) -> None:
        self.fold_scale_()
        affine, input_layers = offline_affine(self.norm), getattr(self.inner, "input_layers", None)
        if affine and input_layers and input_layers():
            for layer in input_layers():
                fold_affine_before_(*affine, layer)
            self.norm = nn.Identity()

    def fold_scale_(self) -> None:
        scale_inner_output = getattr(self.inner, "scale_output_", None)
        if isinstance(self.scale, LayerScale) and scale_inner_output:
            scale_inner_output(self.scale.gamma)
            self.scale = nn.Identity()


class PostNormResidual(Residual):
    """A residual branch whose norm is behind the addition, norm(x + drop(scale * inner(x))); arguments the same."""

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.norm(self.shortcut(x) + self.drop_path(self.scale(self.inner(x, *context))))

    def deploy_(self) -> None:
        self.fold_scale_()


class BranchNormResidual(Residual):
    """A residual branch whose norm is behind `inner`, x + drop(scale * norm(inner(x))); arguments the same."""

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.add(x, self.norm(self.inner(x, *context)))

    def deploy_(self) -> None:
        """Nothing folds through the norm."""


def normed_branch(dim: int, inner: nn.Module, *, pre_norm: bool) -> Residual:
    """A residual branch with a layer norm in front of `inner`, or behind the addition."""
    return Residual(dim, inner) if pre_norm else PostNormResidual(dim, inner)


class DropPath(nn.Module):
    """Stochastic depth per sample (arXiv 1603.09382): drops a whole branch in training, rescales the kept ones."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        shape = (branch.shape[0],) + (1,) * (branch.dim() - 1)
        return branch * torch.bernoulli(torch.full(shape, keep, dtype=branch.dtype, device=branch.device)).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class LayerScale(nn.Module):
    """A learned factor per channel (arXiv 2103.17239): (..., C) -> (..., C)."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, branch: Tensor) -> Tensor:
        return branch * self.gamma


def stochastic_depth(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Drop-path rates that rise linearly from 0 at the first block to `rate` at the last, by stage and block."""
    last = max(sum(depths) - 1, 1)
    rates = iter([rate * block / last for block in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]
