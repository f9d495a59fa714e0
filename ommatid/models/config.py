"""What every model configuration is: a frozen dataclass, checked on creation, JSON in and JSON out."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from ommatid.ops.refusal import suggest


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """Numbers that shape a part. Families add their own fields, with defaults.

    Values are coerced to their declared types (a JSON list becomes a tuple, 4 becomes 4.0, a table the config that a
    field is declared to be), so that a config read back from a file equals the one that was written.

    Raises:
        ValueError: a value is not of the declared type, or a family's own check fails; it names the field, the value
            and what is allowed.
    """

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            object.__setattr__(self, name, coerce(name, getattr(self, name), kind))
        self.check()

    def check(self) -> None:
        """Raises ValueError for combinations that cannot be built. Families override it."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def fields_for(cls, image_size: int) -> dict[str, Any]:
        """The fields that follow from the side of the images a model is made for. Families with others override it."""
        return {"image_size": image_size} if "image_size" in {field.name for field in dataclasses.fields(cls)} else {}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds a config from JSON-like values; unknown names are a ValueError with close matches."""
        check_fields(cls, values)
        return cls(**values)

    def replace(self, **overrides: Any) -> Self:
        """A copy with some fields changed; unknown names are a ValueError with close matches."""
        check_fields(type(self), overrides)
        return dataclasses.replace(self, **overrides)


@dataclass(frozen=True, kw_only=True)
class Config(PartConfig):
    """What every whole model has beside its family's own fields: an image goes in, logits come out."""

    in_channels: int = 3
    num_classes: int = 1000
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.in_channels > 0, "in_channels", self.in_channels, "a positive integer")
        require(self.num_classes >= 0, "num_classes", self.num_classes, "0 (no classifier) or more")
        require(0 <= self.drop_path_rate < 1, "drop_path_rate", self.drop_path_rate, "from 0 up to, not including, 1")


def check_fields(config_class: type[PartConfig], values: dict[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in values:
        if name not in known:
            raise ValueError(
                f"{config_class.__name__} has no field {name!r}{suggest(name, known)}; fields: {', '.join(known)}"
            )


def require(condition: bool, field: str, value: Any, allowed: str) -> None:
    """Raises the ValueError that names the field, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{field} = {value!r} is not possible: allowed is {allowed}")


def require_positive(**fields: Any) -> None:
    """Numbers, and all numbers in lists, must be above 0."""
    for name, value in fields.items():
        several = isinstance(value, tuple)
        numbers = value if several else (value,)
        kind = "number" if any(isinstance(number, float) for number in numbers) else "integer"
        allowed = f"positive {kind}s" if several else f"a positive {kind}"
        require(all(number > 0 for number in numbers), name, value, allowed)


def require_divisible(
    dims: typing.Sequence[int] | int, heads: typing.Sequence[int] | int, field: str = "heads"
) -> None:
    """Every width must split evenly into its heads."""
    pairs = zip((dims,) if isinstance(dims, int) else dims, (heads,) if isinstance(heads, int) else heads, strict=True)
    for dim, count in pairs:
        require(count > 0 and dim % count == 0, field, heads, f"a divisor of the width ({dim})")


def require_stages(**fields: typing.Sequence[Any]) -> None:
    """All the per-stage lists must have one entry for each stage."""
    (first, reference), *others = fields.items()
    require(len(reference) > 0, first, reference, "at least one stage")
    for name, value in others:
        require(
            len(value) == len(reference), name, value, f"one entry for each of the {len(reference)} stages in {first}"
        )


def coerce(field: str, value: Any, kind: Any) -> Any:
    """Turns a JSON-like `value` into the declared `kind`, or raises the ValueError that says what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(field, value, arguments)
    if origin is Literal:
        require(value in arguments, field, value, " or ".join(map(repr, arguments)))
        return value
    if origin is Sequence:
        origin, arguments = tuple, (*arguments, Ellipsis)
    if origin is tuple:
        return _coerce_tuple(field, value, arguments)
    if origin is dict:
        require(isinstance(value, dict), field, value, "a table of names and values")
        return {key: coerce(f"{field}.{key}", item, arguments[1]) for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, PartConfig) and isinstance(value, dict):
        return kind.from_dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    matches = kind is Any or (isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool))
    require(matches, field, value, {int: "an integer", float: "a number", bool: "true or false"}.get(kind, str(kind)))
    return value


def _coerce_tuple(field: str, value: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    require(isinstance(value, list | tuple), field, value, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(coerce(field, item, arguments[0]) for item in value)
    require(len(value) == len(arguments), field, value, f"a list of {len(arguments)}")
    return tuple(coerce(field, item, kind) for item, kind in zip(value, arguments, strict=True))


def _coerce_union(field: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    reasons = []
    for kind in kinds:
        try:
            return coerce(field, value, kind)
        except ValueError as error:
            reasons.append(str(error).rsplit("allowed is ", 1)[-1])
    raise ValueError(f"{field} = {value!r} is not possible: allowed is {' or '.join(reasons)}")
