"""The optimiser of every recipe: AdamW with a linear warm-up and a cosine to zero."""

from __future__ import annotations

import math
from functools import partial

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from ommatid.models import Backbone
from ommatid.models.config import require
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
    """The groups of `parameter_groups`; those of a backbone with rates of their own, by depth.

    The last part of its `body`, and what comes after it, has `backbone_lr` of the rate; each part before it, and at
    last what comes before all parts, `layer_decay` of that of the next (BEiT, arXiv 2106.08254). The rate itself is
    that of a classifier's head, and of all that a dense model has on its backbone.

    Raises:
        ValueError: other rates are asked for than the model's parts are known for.
    """
    below = parts_below(model, recipe)
    if not below:
        return parameter_groups(model, recipe.weight_decay)
    groups = []
    for group in parameter_groups(model, recipe.weight_decay):
        by_rate: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            steps = below.get(id(parameter))
            share = 1.0 if steps is None else recipe.backbone_lr * recipe.layer_decay**steps
            by_rate.setdefault(recipe.lr * share, []).append(parameter)
        groups += [group | {"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]
    return groups


def parts_below(model: nn.Module, recipe: Recipe) -> dict[int, int]:
    """By the id of each parameter with a rate of its own: how many parts of the backbone its own lies before the last.

    Parameters outside of all parts belong to the part that was registered before them.

    Raises:
        ValueError: the recipe asks for rates by depth, and the model has no backbone, or one of no known parts.
    """
    if recipe.backbone_lr == recipe.layer_decay == 1:
        return {}
    backbone = model.backbone if isinstance(model, DenseModel) else model
    name = type(model).__name__
    if not isinstance(backbone, Backbone):
        raise ValueError(f"backbone_lr and layer_decay other than 1 are not possible for {name}: it has no backbone")
    known = bool(backbone.body) or recipe.layer_decay == 1
    require(known, "layer_decay", recipe.layer_decay, f"1 for {name}, whose depth is not known")
    inside = {id(parameter): place for place, part in enumerate(backbone.body, 1) for parameter in part.parameters()}
    head = {id(parameter) for parameter in backbone.head.parameters()}
    below, place = {}, 0
    for parameter in backbone.parameters():
        place = inside.get(id(parameter), place)
        if id(parameter) not in head:
            below[id(parameter)] = len(backbone.body) - place
    return below


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
