"""Layers of which only the shapes exist: to count, and to see whether they can be made at all."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class LayersWithoutValues(TorchFunctionMode):
    """Gives the weights of layers a shape only, and skips drawing them.

    `torch.device("meta")` would do the same to every tensor, but makes PyTorch load its symbolic algebra, for seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **kwargs | {"device": "meta"})
        if func.__name__ in ("normal_", "uniform_"):
            return next(iter((*args, *kwargs.values())))
        return func(*args, **kwargs)
