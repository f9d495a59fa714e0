"""Which models exist: families register themselves, variants are their published configurations.

A family is one module. Its model class carries the decorator `@register("id", ConfigClass)`; the module may also define

    VARIANTS: dict[str, PartConfig]             published configurations by name
    REFERENCE_NAMES: list[(regex, text)]    the reference implementation's parameter names -> ours (models/reference.py)
    REFERENCE_IGNORED: list[regex]          derived entries of the reference's state that are not parameters
    convert_reference(state, model)         for what renaming can't say: changes of shape or layout
    reference_outputs(model, **inputs)      outputs of the reference cases beyond the contract (workflows/verify.py)

Other packages add families through the entry point group `ommatid.models`: each entry names such a module.
"""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, TypeVar

from torch import nn

from ommatid.models.backbone import Backbone
from ommatid.models.config import Config, PartConfig, suggest
from ommatid.models.dense import Detector, MaskTransformer, Segmenter
from ommatid.models.restorer import Restorer

ModelClass = TypeVar("ModelClass", bound=type[nn.Module])


@dataclass(frozen=True)
class Family:
    """A registered architecture: its id in the catalogue, its config class and its model class.

    A config whose field `function` or `part` is a key of `parts` stands for that class instead.
    """

    id: str
    config: type[PartConfig]
    model: type[nn.Module]
    parts: dict[str, type[nn.Module]] = field(default_factory=dict)

    def build(self, config: PartConfig) -> nn.Module:
        """A new model, or the part of it that the config names."""
        return self.class_of(config)(config)

    def class_of(self, config: PartConfig) -> type[nn.Module]:
        """What the config stands for: the model, or the part that its field `function` or else `part` names."""
        named = getattr(config, "function", None) or getattr(config, "part", None)
        return self.parts.get(named or "", self.model)

    @property
    def module(self) -> ModuleType:
        return sys.modules[self.model.__module__]

    @property
    def variants(self) -> dict[str, PartConfig]:
        return getattr(self.module, "VARIANTS", {})


_families: dict[str, Family] = {}

_HOMES = ("ommatid.models", "ommatid.methods")
"""Packages whose modules register families: architectures, and what is done to them."""


def register(id: str, config: type[PartConfig]) -> Callable[[ModelClass], ModelClass]:
    """Class decorator: makes a model class known under its catalogue id."""

    def add(model: ModelClass) -> ModelClass:
        if id in _families and _families[id].model.__module__ != model.__module__:
            raise ValueError(f"family {id!r} is already registered by {_families[id].model.__module__}")
        _families[id] = Family(id, config, model)
        return model

    return add


def register_part(id: str, part: str) -> Callable[[ModelClass], ModelClass]:
    """Class decorator: what a config of the family `id`, registered above it, stands for if its `part` is this one.

    The cases of procedures say `function` instead of `part`, and so do the configs of their families.
    """

    def add(model: ModelClass) -> ModelClass:
        _families[id].parts[part] = model
        return model

    return add


def families() -> dict[str, Family]:
    """Every registered family by id, sorted."""
    _discover()
    return dict(sorted(_families.items()))


@cache
def _discover() -> None:
    for home in _HOMES:
        package = importlib.import_module(home)
        for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            importlib.import_module(info.name)
    for entry in entry_points(group="ommatid.models"):
        entry.load()


def list_models(pattern: str = "*") -> list[str]:
    """Names of the registered variants that match a wildcard pattern such as `"swin_*"`, sorted."""
    names = [name for family in families().values() for name in family.variants]
    return sorted(fnmatch.filter(names, pattern))


def find(name: str) -> tuple[Family, PartConfig]:
    """The family and the config that a variant or family name stands for.

    Raises:
        ValueError: no such model; with close matches.
    """
    for family in families().values():
        if name in family.variants:
            return family, family.variants[name]
    if name in _families:
        return _families[name], _families[name].config()
    known = [*_families, *list_models()]
    raise ValueError(f"no model is called {name!r}{suggest(name, known)}; `ommatid models` lists all")


def is_classifier(family: Family, config: PartConfig) -> bool:
    """Whether the config stands for a whole model, images in and logits out, rather than a part of one."""
    chosen = family.class_of(config)
    return isinstance(config, Config) and (chosen is family.model or issubclass(chosen, Backbone))


def is_restorer(family: Family, config: PartConfig) -> bool:
    """Whether the config stands for a whole model, images in and images out."""
    return issubclass(family.class_of(config), Restorer)


def is_segmenter(family: Family, config: PartConfig) -> bool:
    """Whether the config stands for a whole model, images in and a class for every pixel out."""
    return issubclass(family.class_of(config), Segmenter)


def is_detector(family: Family, config: PartConfig) -> bool:
    """Whether the config stands for a whole model, images in and boxes or masks of things out."""
    return issubclass(family.class_of(config), Detector)


def is_mask_transformer(family: Family, config: PartConfig) -> bool:
    """Whether the config stands for a detector whose things are masks."""
    return issubclass(family.class_of(config), MaskTransformer)


def find_classifier(name: str, **overrides: Any) -> tuple[Family, PartConfig]:
    """As `find`, with config fields overridden as in `create_model`, for what trains and runs on images.

    Raises:
        ValueError: as `create_model` does, or the name is that of a part, or of a restoration network.
    """
    family, config = _find_overridden(name, overrides)
    if not is_classifier(family, config):
        raise ValueError(f"{name} is {_kind(family, config)}, not an image classifier")
    return family, config


def find_restorer(name: str, **overrides: Any) -> tuple[Family, PartConfig]:
    """As `find_classifier`, for what makes a better picture of a picture.

    Raises:
        ValueError: as `create_model` does, or the name is that of a classifier or a part.
    """
    family, config = _find_overridden(name, overrides)
    if not is_restorer(family, config):
        raise ValueError(f"{name} is {_kind(family, config)}, not a restoration network")
    return family, config


def find_segmenter(name: str, **overrides: Any) -> tuple[Family, PartConfig]:
    """As `find_classifier`, for what gives every pixel a class: networks of logits, and mask transformers.

    Raises:
        ValueError: as `create_model` does, or the name is that of another kind of model.
    """
    family, config = _find_overridden(name, overrides)
    if not (is_segmenter(family, config) or is_mask_transformer(family, config)):
        raise ValueError(f"{name} is {_kind(family, config)}, not a segmentation network")
    return family, config


def find_detector(name: str, **overrides: Any) -> tuple[Family, PartConfig]:
    """As `find_classifier`, for what finds things.

    Raises:
        ValueError: as `create_model` does, or the name is that of another kind of model.
    """
    family, config = _find_overridden(name, overrides)
    if not is_detector(family, config):
        raise ValueError(f"{name} is {_kind(family, config)}, not a detector")
    return family, config


def _find_overridden(name: str, overrides: dict[str, Any]) -> tuple[Family, PartConfig]:
    family, config = find(name)
    return family, config.replace(**overrides)


def _kind(family: Family, config: PartConfig) -> str:
    """What the config stands for, in words."""
    if is_classifier(family, config):
        return "an image classifier"
    if is_restorer(family, config):
        return "a restoration network"
    if is_segmenter(family, config):
        return "a segmentation network"
    if is_detector(family, config):
        return "a detector"
    return f"the {getattr(config, 'part', None)} part of {family.id}" if isinstance(config, Config) else "a part"


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a registered variant (`"swin_tiny"`) or a family (`"swin"`), with config fields overridden.

    The model has fresh weights, in training mode.

    Raises:
        ValueError: unknown model or field (with close matches), or an impossible value (with what is allowed).
    """
    family, config = find(name)
    return family.build(config.replace(**overrides))


def family_of(model: nn.Module) -> Family:
    """The family that a model instance belongs to.

    Raises:
        ValueError: the model's class is not registered.
    """
    for family in families().values():
        if type(model) in (family.model, *family.parts.values()):
            return family
    raise ValueError(f"{type(model).__name__} is not a registered model class")
