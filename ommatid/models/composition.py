"""What a composition of parts says, and whether it can be built: found out from names, numbers and shapes alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ommatid.models.config import coerce, require
from ommatid.nn.parts import Part, Place, Role, build_part, find_part
from ommatid.nn.parts.registry import inner_place, named
from ommatid.ops.refusal import suggest

Choice = Any
"""A part: its name, or (name, options)."""

TRIED = 16
"""Longest side of the map that a part is tried with, in tokens: what is wrong shows on a small map."""


def written(field: str, value: Any) -> Any:
    """A choice, or a tuple of entries for the stages, as JSON gives it back; an entry is a choice, or a tuple of such.

    A config that was saved thus equals the one that was written. Commas in a word part it as a list does.

    Raises:
        ValueError: the value is none of these.
    """
    if isinstance(value, str) and "," in value:
        value = [word.strip() for word in value.split(",") if word.strip()]
    if _is_choice(value):
        return _choice(field, value)
    allowed = "a part's name, [name, {options}], or a list of such with an entry for each stage"
    require(isinstance(value, list | tuple) and len(value) > 0, field, value, allowed)
    return tuple(_entry(field, entry) for entry in value)


def by_stage(field: str, value: Any, stages: int) -> list[list[Choice]]:
    """The choices that take turns in each stage, of what `written` gave.

    Raises:
        ValueError: the list cannot be spread over so many stages, the same number to each entry.
    """
    if _is_choice(value):
        return [[value]] * stages
    allowed = (
        f"one part for all stages, or a list of {' or '.join(str(n) for n in range(1, stages + 1) if stages % n == 0)}"
    )
    require(stages % len(value) == 0, field, value, f"{allowed} entries for {stages} stages")
    entries = [value[stage * len(value) // stages] for stage in range(stages)]
    return [[entry] if _is_choice(entry) else list(entry) for entry in entries]


def _entry(field: str, entry: Any) -> Any:
    if _is_choice(entry):
        return _choice(field, entry)
    allowed = "a name, [name, {options}], or a list of such that take turns"
    require(isinstance(entry, list | tuple) and len(entry) > 0, field, entry, allowed)
    for choice in entry:
        require(_is_choice(choice), field, choice, allowed)
    choices = tuple(_choice(field, choice) for choice in entry)
    return choices if len(choices) > 1 else choices[0]


def _is_choice(value: Any) -> bool:
    try:
        named(value)
    except ValueError:
        return False
    return True


def _choice(field: str, value: Any) -> Choice:
    """As JSON gives it back, so that a config that was saved equals the one that was written."""
    name, options = named(value)
    try:
        plain = json.loads(json.dumps(options))
    except (TypeError, ValueError):
        raise ValueError(f"{field} {name!r}: {options!r} holds more than numbers, words and lists") from None
    return (name, plain) if plain else name


def composed(role: Role, choice: Choice, place: Place) -> nn.Module:
    """The part that a checked choice stands for."""
    name, options = named(choice)
    return build_part(role, name, checked_options(find_part(role, name), options), place)


def check_part(field: Role, choice: Choice, place: Place, where: str) -> None:
    """Raises the ValueError that says why a token or channel mixer cannot be made for its place, if so.

    where: the place in words.
    """
    name, options = named(choice)
    part = find_part(field, name)
    values = checked_options(part, options)
    arguments = part.arguments(place, values)
    for option, value in arguments.items():
        if option in LIMITS and option in part.options:
            fits, allowed = LIMITS[option]
            require(fits(value, place), f"{field} {name!r} ({where}): {option}", value, allowed(place))
    if "mixer" in arguments:
        check_part("mixer", arguments["mixer"], inner_place(arguments, place), f"in {name!r}, {where}")


def checked_options(part: Part, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options in the types that the part declares. Raises ValueError for unknown, missing or mistyped ones."""
    for name in options:
        if name not in part.options:
            known = ", ".join(part.options) or "none"
            raise ValueError(
                f"{part.role} {part.name!r} has no option {name!r}{suggest(name, part.options)}: allowed is {known}"
            )
    for name in part.unruled:
        if name not in options:
            raise ValueError(f"{part.role} {part.name!r} needs the option {name}: it has no usual value")
    return {
        name: value if name == "mixer" else coerce(f"{part.name}.{name}", value, part.options[name].annotation)
        for name, value in options.items()
    }


def try_part(role: Role, choice: Choice, place: Place, where: str) -> None:
    """Makes the part and sends a map through it. Raises ValueError, in one line, where that fails."""
    if torch.empty(0).device.type == "meta":  # only shapes are asked for: nothing could go through
        return
    reason = _refusal(role, json.dumps(choice), place)
    if reason:
        raise ValueError(f"{role} {named(choice)[0]!r} is not possible {where}: {reason}")


@lru_cache(maxsize=4096)
def _refusal(role: Role, choice: str, place: Place) -> str:
    """Why the part cannot be made or used, in one line; empty where it can. Leaves the random numbers alone."""
    rows, columns = (min(side, TRIED) for side in place.size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            part = composed(role, json.loads(choice), place)
            features = torch.zeros(2, rows, columns, place.dim)
            part(features)
            mixed = part.eval()(features)  # some parts take other maps once training is over
        except Exception as error:  # parts state their limits in many ways
            return (str(error).strip() or type(error).__name__).splitlines()[0]
    return "" if mixed.shape == (2, rows, columns, place.dim) else "it changes the shape of a map"


def _each(fits: Callable[[Any], bool]) -> Callable[[Any, Place], bool]:
    return lambda value, place: all(map(fits, value if isinstance(value, Sequence) else [value]))


def _always(text: str) -> Callable[[Place], str]:
    return lambda place: text


def _divides(value: int | None, place: Place) -> bool:
    return value is None or (value > 0 and place.dim % value == 0)


Limit = tuple[Callable[[Any, Place], bool], Callable[[Place], str]]

_POSITIVE: Limit = (_each(lambda value: value is None or value >= 1), _always("1 or more"))
_DIVISOR: Limit = (_divides, lambda place: f"a divisor of the width ({place.dim})")
_ODD: Limit = (_each(lambda value: value > 0 and value % 2 == 1), _always("odd and positive"))

LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("heads", "groups", "raft"), _DIVISOR),
    **dict.fromkeys(("kernel_size", "kernel_sizes", "local_kernel"), _ODD),
    **dict.fromkeys(
        ("window_size", "window", "grid", "size", "hidden", "ratio", "reduction", "stride", "dilation", "interval"),
        _POSITIVE,
    ),
    **dict.fromkeys(
        ("head_dim", "key_dim", "partial_dim", "inner_dim", "mlp_dim", "block_size", "cell_size", "group_size"),
        _POSITIVE,
    ),
    **dict.fromkeys(("regions", "topk", "levels", "order", "iterations", "state_dim", "chunk_size"), _POSITIVE),
    "alpha": (lambda value, place: 0 <= value <= 1, _always("from 0 to 1")),
}
"""What options of these names must be, in every part that has them."""
