"""models: what can be built here by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ommatid.catalog.systems import all_systems
from ommatid.measuring.measure import count_macs, image_for, native_size
from ommatid.models import create_model, families, list_models
from ommatid.models.backbone import pair
from ommatid.models.config import suggest
from ommatid.models.registry import find

COUNTED = 12
"""MACs take a trial run, if one without arithmetic: lists of more models than this leave them out."""


@dataclass(frozen=True)
class ModelRow:
    """A variant that `create_model` builds; `size` is its native image side, (height, width)."""

    variant: str
    family: str
    parameters: int
    size: tuple[int, int]
    macs: int | None
    title: str | None


def models_table(pattern: str = "*") -> list[ModelRow]:
    """The variants that match a wildcard pattern such as `"swin_*"`, sorted by name.

    Raises:
        ValueError: none matches; with close names.
    """
    names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {pattern!r}{suggest(pattern, [*list_models(), *families()])}")
    titles = {system.id: system.title for system in all_systems()}
    return [model_row(name, titles, with_macs=len(names) <= COUNTED) for name in names]


def model_row(name: str, titles: dict[str, str], *, with_macs: bool) -> ModelRow:
    family, _ = find(name)
    model = skeleton(name)
    size = pair(native_size(model))
    macs = count_macs(model, image_for(model, 1, size)) if with_macs else None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ModelRow(name, family.id, parameters, size, macs, titles.get(family.id))


def skeleton(name: str) -> nn.Module:
    """The model in evaluation mode: shapes on the meta device, no values, no memory."""
    with LayersWithoutValues():
        return create_model(name).eval().to("meta")


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
