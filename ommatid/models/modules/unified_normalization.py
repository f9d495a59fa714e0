"""Unified normalisation, as its reference runs it: steps of training, and the fold into a linear layer.

"Unified Normalization for Accelerating and Stabilizing Transformers" (arXiv 2208.01313).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.deploy import fold_affine_before_
from ommatid.nn.unified_norm import UnifiedNorm


@dataclass(frozen=True, kw_only=True)
class UnifiedNormalizationConfig(PartConfig):
    """`window_size` is one number, or that of the moments and that of the gradients. Only "training" reads `scales`,
    factors of each step's input, and `start_iteration`.
    """

    function: Literal["training", "inference"] = "inference"
    dim: int = 384
    window_size: int | tuple[int, int] = 4
    warmup_iters: int = 4000
    outlier_filtration: bool = False
    eps: float = 1e-5
    momentum: float = 0.9
    start_iteration: int = 0
    scales: tuple[float, ...] = (1.0,)

    def check(self) -> None:
        require_positive(dim=self.dim, window_size=self.window_size)
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")

    def norm(self) -> UnifiedNorm:
        window = self.window_size
        return UnifiedNorm(
            self.dim,
            window=(window, window) if isinstance(window, int) else window,
            warmup_iters=self.warmup_iters,
            outlier_filtration=self.outlier_filtration,
            eps=self.eps,
            momentum=self.momentum,
        )


@register("unified_normalization", UnifiedNormalizationConfig)
class Inference(Procedure):
    """tokens (B, N, C) -> tokens normed; a linear layer behind them; and the one layer that does both."""

    config: UnifiedNormalizationConfig

    def __init__(self, config: UnifiedNormalizationConfig) -> None:
        super().__init__(config)
        self.norm = config.norm()
        self.linear = nn.Linear(config.dim, config.dim)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        normed = self.norm(tokens)
        fused = nn.Linear(*self.linear.weight.T.shape)
        fused.load_state_dict(self.linear.state_dict())
        with torch.no_grad():
            fold_affine_before_(*self.norm.affine(), fused)
        return {
            "tokens": normed,
            "linear": self.linear(normed),
            "fused_weight": fused.weight,
            "fused_bias": fused.bias,
        }


@register_part("unified_normalization", "training")
class Training(Procedure):
    """x and grad (T, B, N, C) of T steps -> what each step gave, and the norm's state behind it.

    var0 and ema0 (C), buf0 and gbuf0 (window, C): of the state to start from, where `start_iteration` is not 0. mask
    (T, B, N) or (B, N): 1 for tokens that are padding.
    """

    config: UnifiedNormalizationConfig

    def __init__(self, config: UnifiedNormalizationConfig) -> None:
        super().__init__(config)
        self.norm = config.norm()

    def forward(self, x: Tensor, grad: Tensor, mask: Tensor | None = None, **start: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        norm = self.config.norm().train()
        norm.load_state_dict(self.norm.state_dict())
        if self.config.start_iteration:
            _start(norm, self.config.start_iteration, **start)
        steps = []
        for i, scale in enumerate(self.config.scales):
            padding = None if mask is None else (mask if mask.dim() == x.dim() - 2 else mask[i]).bool()
            steps.append(_step(norm, x[i] * scale, grad[i], padding))
        outputs = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
        outputs["skip_counter"] = outputs["skip_counter"].flatten()
        return outputs | {"buffer_x2": norm.buffer_x2, "buffer_gz": norm.buffer_gz}


def _start(norm: UnifiedNorm, iteration: int, var0: Tensor, buf0: Tensor, gbuf0: Tensor, ema0: Tensor) -> None:
    norm.iters.fill_(iteration)
    norm.running_var.copy_(0.5 + 0.25 * var0)
    norm.buffer_x2.copy_(0.4 + 0.1 * buf0)
    norm.buffer_gz.copy_(0.05 * gbuf0)
    norm.ema_gz.copy_(0.05 * ema0)


def _step(norm: UnifiedNorm, x: Tensor, grad: Tensor, padding: Tensor | None) -> dict[str, Tensor]:
    x = x.detach().requires_grad_()
    y = norm(x, padding)
    grad_x, grad_weight, grad_bias = torch.autograd.grad(y, (x, norm.weight, norm.bias), grad)
    state = {name: getattr(norm, name).clone() for name in ("running_var", "ema_gz", "skip_counter")}
    return {"y": y.detach(), "grad_x": grad_x, "grad_weight": grad_weight, "grad_bias": grad_bias, **state}


def convert_reference(state: dict[str, Tensor], model: Inference | Training) -> dict[str, Tensor]:
    """The cases name only what they change of a norm's state. The linear layer becomes as wide as theirs."""
    if isinstance(model, Inference) and "linear.weight" in state:
        model.linear = nn.Linear(*state["linear.weight"].T.shape)
    named = {name if name.startswith("linear.") else f"norm.{name}": value for name, value in state.items()}
    return model.state_dict() | named
