"""models, systems: what can be built here, and what the catalogue knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ommatid.catalog.systems import all_systems, areas, matching
from ommatid.models import create_model, families, list_models
from ommatid.models.backbone import pair
from ommatid.models.config import suggest
from ommatid.models.registry import find
from ommatid.workflows.measure import count_macs, image_for, native_size

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


@dataclass(frozen=True)
class SystemRow:
    """A system of the catalogue; `where` is the module that implements it, None where it is not built here."""

    id: str
    area: str
    title: str
    where: str | None

    @property
    def implemented(self) -> bool:
        return self.where is not None


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


def search_systems(query: str = "", area: str | None = None) -> list[SystemRow]:
    """Systems that have every word of the query in their id or title, in one area if given.

    Raises:
        ValueError: there is no such area; with close names and all that exist.
    """
    if area is not None and area not in areas():
        raise ValueError(f"no area is called {area!r}{suggest(area, areas())}; areas: {', '.join(areas())}")
    homes = {id: family.model.__module__ for id, family in families().items()}
    return [SystemRow(system.id, system.area, system.title, homes.get(system.id)) for system in matching(query, area)]
