"""models: what can be built here by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ommatid.catalog.systems import all_systems
from ommatid.measuring.measure import DEFAULT_SIZE, count_macs, image_for
from ommatid.models import create_model, families, list_models
from ommatid.models.backbone import pair
from ommatid.models.config import suggest
from ommatid.models.registry import find

COUNTED = 24
"""Counting parameters and MACs takes a moment for each model: lists of more than this leave both out."""


@dataclass(frozen=True)
class ModelRow:
    """A variant that `create_model` builds.

    `size` is its native image side, (height, width); `title` its paper's, or what its module says it is.
    """

    variant: str
    family: str
    parameters: int | None
    size: tuple[int, int]
    macs: int | None
    title: str


def models_table(pattern: str = "*") -> list[ModelRow]:
    """The variants that match a wildcard pattern such as `"swin_*"`, by name; counted if COUNTED or fewer.

    Raises:
        ValueError: none matches; with close names.
    """
    names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {pattern!r}{suggest(pattern, [*list_models(), *families()])}")
    titles = {system.id: system.title for system in all_systems()}
    return [model_row(name, titles, counted=len(names) <= COUNTED) for name in names]


def model_row(name: str, titles: dict[str, str], *, counted: bool) -> ModelRow:
    family, config = find(name)
    size = pair(getattr(config, "image_size", DEFAULT_SIZE))
    parameters, macs = count(name, size) if counted else (None, None)
    title = titles.get(family.id) or (family.module.__doc__ or "").partition("\n")[0]
    return ModelRow(name, family.id, parameters, size, macs, title)


def count(name: str, size: tuple[int, int]) -> tuple[int, int]:
    """Parameters and MACs, from shapes alone."""
    model = skeleton(name)
    return sum(parameter.numel() for parameter in model.parameters()), count_macs(model, image_for(model, 1, size))


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
