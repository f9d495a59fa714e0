"""Making an inference copy: every part folds what is constant once training is over."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


@torch.no_grad()
def deployed_copy(model: Model) -> Model:
    """A copy in evaluation mode in which every part that defines `deploy_()` has folded itself, inner parts first."""
    deployed = copy.deepcopy(model).eval()
    for part in reversed(list(deployed.modules())):
        fold = getattr(part, "deploy_", None)
        if fold:
            fold()
    return deployed.requires_grad_(False)


@torch.no_grad()
def scale_output_(layer: nn.Linear | nn.Conv2d, scale: Tensor) -> None:
    """Multiplies every output channel of a linear or convolution layer by `scale`, inside its weights."""
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is not None:
        layer.bias.mul_(scale)
