"""What the runtimes have in common: images in, tensors out, and a way to say that one is not installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Run = Callable[[Tensor], Any]
"""Images to the model's answer: a tensor, or a tuple of them where the answer has several parts."""


def as_answer(parts: Sequence[np.ndarray]) -> Tensor | tuple[Tensor, ...]:
    tensors = tuple(map(torch.from_numpy, parts))
    return tensors if len(tensors) > 1 else tensors[0]


def imported(package: str) -> Any:
    """Raises ValueError, with the way out, where the package is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f"this needs the package {package}: pip install 'ommatid[export]'") from None
