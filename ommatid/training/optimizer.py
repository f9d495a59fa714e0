"""The optimiser of every recipe: AdamW with a linear warm-up and a cosine to zero."""

from __future__ import annotations

import math
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ommatid.training.recipes import Recipe


def make_optimizer(model: nn.Module, *, recipe: Recipe, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW (arXiv 1711.05101) for `steps` steps, and the schedule that is to be advanced after each."""
    # Lightning does not clip the gradients of a fused optimiser in mixed precision.
    optimizer = AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.lr, fused=recipe.precision == "float32")
    warmup = round(steps * min(recipe.warmup_epochs / recipe.epochs, 1))
    return optimizer, LambdaLR(optimizer, partial(warmup_cosine, warmup=warmup, steps=steps))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; vectors, scalars (norms, biases, scales) and what the model exempts by `no_decay` do not."""
    exempt = tuple(getattr(model, "no_decay", ()))
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (free if parameter.ndim <= 1 or name.endswith(exempt) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def warmup_cosine(step: int, *, warmup: int, steps: int) -> float:
    """Share of the peak rate at a step: up in a line over `warmup` steps, then down a cosine (arXiv 1608.03983)."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
