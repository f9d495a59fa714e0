"""Parts by name, ommatid's own and those of other packages.

A module that a package names in its entry point group `ommatid.parts` adds parts with the decorators:

    @mixer("pixel_shift")
    class PixelShift(nn.Module): ...            # made as PixelShift(dim, ...), (B, H, W, C) -> (B, H, W, C)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from torch import nn

from ommatid.nn.parts.part import Part, Place, Role, Rule
from ommatid.nn.parts.table import RULES, built_in
from ommatid.ops.refusal import suggest

Make = TypeVar("Make", bound=Callable[..., nn.Module])

_parts: dict[Role, dict[str, Part]] = {}


def add_part(role: Role, name: str, **own_rules: Rule) -> Callable[[Make], Make]:
    """Decorator: makes a class or function known as a part.

    own_rules: usual values of parameters without a default, (place, values so far) -> value; heads, window_size and
    whatever other parts have are known already.

    Raises:
        ValueError: there is such a part already.
    """

    def add(make: Make) -> Make:
        _add(Part(name, role, make, {**RULES.get(role, {}), **own_rules}))
        return make

    return add


def mixer(name: str, **own_rules: Rule) -> Callable[[Make], Make]:
    """Decorator: a token mixer, made as `make(dim, ...)`."""
    return add_part("mixer", name, **own_rules)


def channel_mixer(name: str, **own_rules: Rule) -> Callable[[Make], Make]:
    """Decorator: a channel mixer, made as `make(dim, hidden, ...)`."""
    return add_part("channel_mixer", name, **own_rules)


def parts(role: Role) -> dict[str, Part]:
    """All parts of a role by name, sorted."""
    _discover()
    return dict(sorted(_parts[role].items()))


def find_part(role: Role, name: str) -> Part:
    """Raises ValueError where there is no such part; with close matches."""
    known = parts(role)
    if name not in known:
        raise ValueError(f"{role} = {name!r} is not possible{suggest(name, known)}: allowed is {', '.join(known)}")
    return known[name]


def build_part(role: Role, name: str, options: Mapping[str, Any], place: Place) -> nn.Module:
    """A token or channel mixer, made for its place. Options are checked by `ommatid.models.composition`, not here."""
    part = find_part(role, name)
    arguments = part.arguments(place, options)
    if "mixer" in arguments:
        inner, inner_options = named(arguments["mixer"])
        arguments["mixer"] = build_part("mixer", inner, inner_options, inner_place(arguments, place))
    return part.make(**arguments)


def inner_place(arguments: Mapping[str, Any], place: Place) -> Place:
    """Where the mixer inside another one works: in a window, on a grid, or where that one does."""
    return replace(place, size=tuple(arguments.get("window") or arguments.get("grid") or place.size))


def named(choice: Any) -> tuple[str, dict[str, Any]]:
    """`"window"` or `("window", {"window_size": 7})` -> name and options. Raises ValueError for anything else."""
    if isinstance(choice, str):
        return choice, {}
    if isinstance(choice, tuple | list) and len(choice) == 2:
        name, options = choice
        if isinstance(name, str) and isinstance(options, Mapping):
            return name, dict(options)
    raise ValueError(f"{choice!r} is not a part: allowed is a name, or a name and its options as in ['window', {{}}]")


def _add(part: Part) -> None:
    known = _parts.setdefault(part.role, {})
    if part.name in known and known[part.name].make.__module__ != part.make.__module__:
        raise ValueError(f"{part.role} {part.name!r} is already there, from {known[part.name].make.__module__}")
    known[part.name] = part


@cache
def _discover() -> None:
    for part in built_in():
        _add(part)
    for entry in entry_points(group="ommatid.parts"):
        entry.load()
