"""A network that is not trained but follows one that is: what gives a learner something to agree with.

"Momentum Contrast for Unsupervised Visual Representation Learning" (arXiv 1911.05722).
"""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def frozen_copy(module: AnyModule) -> AnyModule:
    """That no gradient trains."""
    return copy.deepcopy(module).requires_grad_(False)


def momentum_at(step: int, steps: int, momentum: float = 0.99) -> float:
    """How much of the key branch stays at a step of so many, from `momentum` at step 0 up to 1."""
    return 1 - (1 - momentum) * (math.cos(math.pi * step / steps) + 1) / 2


@torch.no_grad()
def follow_(key: nn.Module, query: nn.Module, momentum: float) -> None:
    """Moves the parameters of the key branch towards those of the query branch; buffers are left alone."""
    torch._foreach_lerp_(list(key.parameters()), list(query.parameters()), 1 - momentum)
