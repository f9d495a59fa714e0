"""A norm for transformers that needs no statistics at inference, and so disappears into the layer behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

STEADY_AFTER = 1000
"""Passes, at least, before gradients follow how the scale drifts; the published constant, whatever the warm-up."""

LARGEST_DRIFT = 5.0


class UnifiedNorm(nn.Module):
    """x / sqrt(second moment of the channel), scaled and shifted; no mean is subtracted: (..., C) -> (..., C).

    "Unified Normalization for Accelerating and Stabilizing Transformers" (arXiv 2208.01313). Training smooths the
    second moment over the last passes, by a geometric mean, and the statistic of the gradient by an arithmetic one; the
    gradient follows the paper's own rule rather than the derivative. A batch that looks like an outlier is normed by
    its own moment. In evaluation it is a constant scale and shift, which `deploy()` folds into the layer behind.

    Args:
        dim: C.
        window: passes that are smoothed over, of the moments and of the gradients.
        warmup_iters: passes before smoothing begins. Reset `iters` to 0 for fine-tuning: it has to run again.
        outlier_filtration: whether outliers are looked for, after the warm-up.
        eps: added to second moments.
        momentum: share of the old value in running averages.
    """

    iters: Tensor
    skip_counter: Tensor
    running_var: Tensor
    ema_gz: Tensor
    buffer_x2: Tensor
    buffer_gz: Tensor

    def __init__(
        self,
        dim: int,
        *,
        window: tuple[int, int] = (4, 4),
        warmup_iters: int = 4000,
        outlier_filtration: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.window, self.warmup_iters, self.outlier_filtration = window, warmup_iters, outlier_filtration
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_var", torch.ones(dim))
        self.register_buffer("ema_gz", torch.zeros(dim))
        self.register_buffer("iters", torch.zeros(1, dtype=torch.long))
        self.register_buffer("buffer_x2", torch.zeros(window[0], dim))
        self.register_buffer("buffer_gz", torch.zeros(window[1], dim))
        self.register_buffer("skip_counter", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """padding: (...) booleans of the tokens that the second moment leaves out; they are normed all the same."""
        if not self.training:
            scale, shift = self.affine()
            return x * scale + shift
        moment, drift, skip = self._smoothed(x.detach(), padding)
        normed = _OwnGradient.apply(x, self.weight, moment, drift, skip, self.iters.clone(), self)
        return normed + self.bias

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) per channel that this applies in evaluation."""
        return self.weight * (self.running_var + self.eps).rsqrt(), self.bias

    @torch.no_grad()
    def _smoothed(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The second moment to norm by (C), its drift from the running one (C), and whether smoothing is left out."""
        squares = x.square().flatten(0, -2)
        batch_moment = squares.mean(0) if padding is None else squares[~padding.flatten()].mean(0)
        self.iters += 1
        passes, window = self.iters, self.window[0]
        spread = self.buffer_x2.sqrt().var()
        row = passes % window
        self.buffer_x2.index_copy_(0, row, batch_moment[None])
        outlier = self._is_outlier(spread)
        self.buffer_x2.index_copy_(0, row, torch.where(outlier, self.running_var, batch_moment)[None])
        self.skip_counter += outlier
        skip = outlier | (window == 1)
        early = (passes <= window) | (passes < self.warmup_iters)
        moment = torch.where(early | skip, batch_moment, self.buffer_x2.log().mean(0).exp())
        drift = ((moment + self.eps) / (self.running_var + self.eps)).sqrt().clamp(1 / LARGEST_DRIFT, LARGEST_DRIFT)
        steady = passes > max(STEADY_AFTER, self.warmup_iters)
        drift = torch.where(steady & ~skip, drift, 1.0)
        self.running_var.lerp_(moment, 1 - self.momentum)
        return moment, drift, skip

    def _is_outlier(self, spread: Tensor) -> Tensor:
        """Whether some channel's moments are too far apart for their means to agree, (1) boolean."""
        if not self.outlier_filtration or self.window[0] == 1:
            return torch.zeros_like(self.iters, dtype=torch.bool)
        gap = self.buffer_x2.mean(0) - self.buffer_x2.log().mean(0).exp()
        return (gap > self.window[0] * spread).any() & (self.iters >= self.warmup_iters)

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, window={self.window}, warmup_iters={self.warmup_iters}"


class _OwnGradient(torch.autograd.Function):
    """weight * x / sqrt(moment + eps), with the paper's rule in place of the derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        moment: Tensor,
        drift: Tensor,
        skip: Tensor,
        passes: Tensor,
        norm: UnifiedNorm,
    ) -> Tensor:
        inverse = (moment + norm.eps).rsqrt()
        unit = x * inverse
        ctx.save_for_backward(unit, weight, inverse, drift, skip, passes)
        ctx.norm = norm
        return unit * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = gradients
        unit, weight, inverse, drift, skip, passes = ctx.saved_tensors
        norm: UnifiedNorm = ctx.norm
        dz = dy * (weight * drift)
        smoothed = _smoothed_gradient(norm, (dz * unit).flatten(0, -2).mean(0), skip, passes)
        dx = (dz - torch.where(skip, smoothed, norm.ema_gz) * unit) * inverse
        dweight = (dy * unit).flatten(0, -2).sum(0) * drift
        return dx, dweight, None, None, None, None, None


def _smoothed_gradient(norm: UnifiedNorm, batch_gradient: Tensor, skip: Tensor, passes: Tensor) -> Tensor:
    """The gradient statistic to use (C); the norm's buffer and running average take note of it."""
    window = norm.window[1]
    noted = torch.where(skip, norm.ema_gz, batch_gradient)
    norm.buffer_gz.index_copy_(0, passes % window, noted[None])
    early = (passes <= window) | (passes < norm.warmup_iters)
    smoothed = torch.where(early | skip, batch_gradient, norm.buffer_gz.mean(0))
    norm.ema_gz.lerp_(smoothed, 1 - norm.momentum)
    return smoothed


def replace_layer_norms_(model: nn.Module, *, window: int, warmup_iters: int, outlier_filtration: bool) -> int:
    """Puts a unified norm with its scale and shift in the place of every layer norm over channels; how many there were.

    Raises:
        ValueError: there are none.
    """
    count = 0
    for owner in list(model.modules()):
        for name, part in owner.named_children():
            if isinstance(part, nn.LayerNorm) and len(part.normalized_shape) == 1:
                setattr(owner, name, _in_place_of(part, (window, window), warmup_iters, outlier_filtration))
                count += 1
    if not count:
        raise ValueError(f"{type(model).__name__} has no layer norms over channels: allowed is a model with some")
    return count


def _in_place_of(norm: nn.LayerNorm, window: tuple[int, int], warmup_iters: int, outlier_filtration: bool) -> nn.Module:
    (dim,) = norm.normalized_shape
    made = UnifiedNorm(
        dim, window=window, warmup_iters=warmup_iters, outlier_filtration=outlier_filtration, eps=norm.eps
    ).train(norm.training)
    for name, value in norm.named_parameters():
        made.get_parameter(name).data.copy_(value.detach())
    return made.to(next(norm.parameters(), torch.empty(0)).device)
