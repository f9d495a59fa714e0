"""Ways to train beyond the recipe, one file each, by the name that `--method` takes."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from ommatid.models.config import check_fields, coerce, suggest
from ommatid.training.methods.adversarial import Adversarial
from ommatid.training.methods.distill import Distillation
from ommatid.training.methods.ewa import ExpertsAveraging
from ommatid.training.methods.method import Method
from ommatid.training.methods.pixpro import MatchingViews
from ommatid.training.methods.progressive_shrinking import ProgressiveShrinking
from ommatid.training.methods.simmim import HiddenSquares
from ommatid.training.methods.spark import HiddenPatches
from ommatid.training.methods.spread import SpreadExperts
from ommatid.training.model_spec import parse_model

METHODS: dict[str, type[Method]] = {
    "ewa": ExpertsAveraging,
    "adversarial": Adversarial,
    "spread": SpreadExperts,
    "distill": Distillation,
    "progressive_shrinking": ProgressiveShrinking,
    "simmim": HiddenSquares,
    "spark": HiddenPatches,
    "pixpro": MatchingViews,
}

__all__ = ["METHODS", "Method", "find_method", "quoted"]


def find_method(words: str | None) -> Method:
    """The method in words such as "ewa" or "ewa[experts=8,every=1]"; the plain training for None.

    Raises:
        ValueError: no such method or setting, with close matches, or an impossible value.
    """
    if words is None:
        return Method()
    try:
        spec = parse_model(words)
    except ValueError:
        raise ValueError(f"{words!r} is not a method: write NAME, or NAME[SETTING=VALUE,...]") from None
    if spec.name not in METHODS:
        known = ", ".join(METHODS)
        raise ValueError(f"no method is called {spec.name!r}{suggest(spec.name, METHODS)}; there are {known}")
    kind = METHODS[spec.name]
    check_fields(kind, spec.settings)  # type: ignore[arg-type]
    types = {field.name: {"int": int, "float": float, "str": str}[str(field.type)] for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: coerce(name, value, types[name]) for name, value in spec.settings.items()})


def quoted(path: Path) -> str:
    """A path as a setting in a method's words, whatever letters it has."""
    return json.dumps(str(path)).replace("=", "\\u003d")
