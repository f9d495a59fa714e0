"""A part by its name: how it is made for a place in a model, and what its docstring says of it."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import nn

Role = Literal["mixer", "channel_mixer", "stem", "downsample", "norm", "position"]
"""What a part is for, called as the pyramid's fields are.

Parts are made as `mixer(dim, ...)`, `channel_mixer(dim, hidden, ...)`, `stem(in_dim, dim, stride)`,
`downsample(in_dim, dim)`, `norm(dim)` and `position(size, dim)`; only the first two have options.
"""


@dataclass(frozen=True)
class Place:
    """Where a part is to work, from which follows whatever is not said.

    dim: C. size: rows and columns of the map, for images of the size that the model is made for; others work too.
    ratio: hidden / C of a channel mixer. head_dim: channels of an attention head, about.
    """

    dim: int
    size: tuple[int, int] = (14, 14)
    ratio: float = 4.0
    head_dim: int = 32


Rule = Callable[[Place, Mapping[str, Any]], Any]
"""The usual value of an option, from the part's place and the values of the parameters before it."""


@dataclass(frozen=True)
class Part:
    """A part that has a name.

    name: as configs say it. role: what it is for. make: makes it, from the parameters of its signature. rules: usual
    values of parameters, over those that all parts of the role share. source: whose docstring describes it; `make`
    itself where None.
    """

    name: str
    role: Role
    make: Callable[..., nn.Module]
    rules: Mapping[str, Rule] = field(default_factory=dict)
    source: Any = None

    @cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Those that are numbers, words or lists of them, or another part: what a config can say."""
        hints = typing.get_type_hints(vars(self.make)["__init__"] if isinstance(self.make, type) else self.make)
        found = inspect.signature(self.make).parameters
        annotated = {name: value.replace(annotation=hints.get(name, Any)) for name, value in found.items()}
        return {name: value for name, value in annotated.items() if name == "mixer" or _sayable(value.annotation)}

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The parameters that a config may set."""
        return {name: value for name, value in self.parameters.items() if name not in GIVEN}

    @property
    def unruled(self) -> list[str]:
        """Options without a usual value: a config must set them."""
        return [name for name, value in self.options.items() if value.default is value.empty and name not in self.rules]

    def arguments(self, place: Place, options: Mapping[str, Any]) -> dict[str, Any]:
        """What `make` is called with: the options, and the usual values of all that has no default."""
        values: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if name in options:
                values[name] = options[name]
            elif name in self.rules and (parameter.default is parameter.empty or name in GIVEN):
                values[name] = self.rules[name](place, values)
        return values

    @cached_property
    def _text(self) -> str:
        return " ".join((inspect.getdoc(self.source or self.make) or "").partition("\nArgs:")[0].split())

    @property
    def idea(self) -> str:
        """In one line."""
        module = inspect.getmodule(self.source or self.make)
        first = self._text.partition(": (")[0].partition(". ")[0]
        return first if self.role != "mixer" else ((module and module.__doc__) or first).partition("\n")[0]

    @property
    def papers(self) -> str:
        """Their names as the docstring has them, with their numbers at arXiv."""
        cited = re.findall(r"(\"[^\"]+\" |[^.,;:()]*?)\(arXiv ([\d.]+)\)", self._text)
        named = [f"{_without_lead(title)} (arXiv {number})" for title, number in cited]
        return ", ".join(named) if named else " ".join(re.findall(r"arXiv [\d.]+", self._text))

    @property
    def cost(self) -> str:
        """The formula, with what its letters stand for."""
        found = re.search(r"Cost(?: of one level)?(?:\s*:|,|\s+for)?\s*(.*?)\.?(?:\. [A-Z]|$)", self._text)
        return found[1] if found else ""


GIVEN = ("dim", "in_dim")
"""Parameters that follow from the place alone."""


def _sayable(kind: Any) -> bool:
    """Whether JSON can say a value of the annotated kind."""
    if kind in (int, float, bool, str, type(None)):
        return True
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return True
    if origin in (typing.Union, types.UnionType, tuple, Sequence, typing.get_origin(Sequence[int])):
        return all(argument is Ellipsis or _sayable(argument) for argument in arguments)
    return False


def _without_lead(title: str) -> str:
    """A paper's name without the words that lead to it."""
    return re.sub(r"^.*?\b(?:[Ff]rom|of|in|is|as|What) (?=[A-Z\"])", "", title.strip()).strip(' "')
