"""The optimiser of every recipe: AdamW with a linear warm-up and a cosine to zero."""

from __future__ import annotations

import math
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ommatid.models.dense import DenseModel
from ommatid.training.recipes import Recipe


def make_optimizer(model: nn.Module, *, recipe: Recipe, steps: int) -> tuple[Optimizer, LRScheduler]:
    """AdamW (arXiv 1711.05101) for `steps` steps, and the schedule that is to be advanced after each."""
    # float16 has scaled gradients, which Lightning can't clip where the optimiser's fused step takes off the scale.
    optimizer = AdamW(scaled_groups(model, recipe), lr=recipe.lr, fused=recipe.precision != "float16")
    # There is no scale in the others; saying so lets Lightning clip.
    optimizer._step_supports_amp_scaling = False
    warmup = round(steps * min(recipe.warmup_epochs / recipe.epochs, 1))
    return optimizer, LambdaLR(optimizer, partial(warmup_cosine, warmup=warmup, steps=steps))


def scaled_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """The groups of `parameter_groups`; those of a dense model's backbone with rates of their own, stage by stage.

    A stage is what the maps of the backbone are counted by: the last has `backbone_lr` of the rate, each one before it,
    and at last what comes before all stages, `layer_decay` of that of the next (BEiT, arXiv 2106.08254).
    """
    backbone = model.backbone if isinstance(model, DenseModel) else None
    if backbone is None or recipe.backbone_lr == recipe.layer_decay == 1:
        return parameter_groups(model, recipe.weight_decay)
    depth = {id(parameter): 0 for parameter in backbone.parameters()}
    stages = getattr(backbone, "stages", None) or getattr(backbone, "blocks", None) or []
    for number, stage in enumerate(stages, start=1):
        depth |= {id(parameter): number for parameter in stage.parameters()}
    groups = []
    for group in parameter_groups(model, recipe.weight_decay):
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            rate = recipe.lr
            if id(parameter) in depth:
                rate *= recipe.backbone_lr * recipe.layer_decay ** (len(stages) - depth[id(parameter)])
            by_rate.setdefault(rate, []).append(parameter)
        groups += [group | {"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    return groups


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; vectors, scalars (norms, biases, scales) and what the model exempts by `no_decay` do not."""
    exempt = tuple(getattr(model, "no_decay", ()))
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        (free if parameter.ndim <= 1 or name.endswith(exempt) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def warmup_cosine(step: int, *, warmup: int, steps: int) -> float:
    """Share of the peak rate at a step: up in a line over `warmup` steps, then down a cosine (arXiv 1608.03983)."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
