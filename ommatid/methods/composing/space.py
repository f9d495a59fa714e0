"""The compositions that a search chooses from, as choices of an Optuna trial."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ommatid.models.backbones.pyramid import PyramidConfig
from ommatid.nn.parts import Role, parts
from ommatid.ops.refusal import suggest

SMALL = 96
"""Side of images, in pixels, up to which patches are smaller and there are three stages instead of four."""

WRAPPERS = ("windowed", "gridded", "spatial_mlp", "none")
"""Mixers made of others, which a search would only find twice; and none at all."""


class Chooser(Protocol):
    """What an Optuna trial offers."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1) -> int: ...


@dataclass(frozen=True)
class Space:
    """Compositions for images of one size.

    image_size: side in pixels. num_classes: of the classifier. mixers, channel_mixers: names that may be chosen.
    """

    image_size: int
    num_classes: int
    mixers: tuple[str, ...]
    channel_mixers: tuple[str, ...]

    @property
    def stages(self) -> int:
        return 3 if self.image_size <= SMALL else 4

    def choose(self, trial: Chooser) -> dict[str, Any]:
        """Fields of a pyramid's config."""
        width = trial.suggest_int("width", 16, 96, step=16)
        growth = trial.suggest_categorical("growth", (1.5, 2.0))
        stages = range(self.stages)
        return {
            "patch_size": trial.suggest_categorical("patch_size", (2, 4) if self.image_size <= SMALL else (4,)),
            "dims": [round(width * growth**stage / 16) * 16 for stage in stages],
            "depths": [trial.suggest_int(f"depth_{stage + 1}", 1, 4) for stage in stages],
            "mixer": [trial.suggest_categorical(f"mixer_{stage + 1}", self.mixers) for stage in stages],
            "channel_mixer": trial.suggest_categorical("channel_mixer", self.channel_mixers),
            "mlp_ratios": float(trial.suggest_int("mlp_ratio", 1, 4)),
            "stem": trial.suggest_categorical("stem", ("overlap_conv", "conv", "patch")),
            "downsample": trial.suggest_categorical("downsample", ("overlap_conv", "patch_merging", "pre_norm_conv")),
            "norm": trial.suggest_categorical("norm", ("layer", "batch")),
            "position": trial.suggest_categorical("position", ("none", "conditional")),
        }

    def config(self, fields: dict[str, Any]) -> PyramidConfig:
        """Raises ValueError where such a composition is impossible."""
        return PyramidConfig(image_size=self.image_size, num_classes=self.num_classes, **fields)


def chosen_parts(role: Role, patterns: str | None) -> tuple[str, ...]:
    """Names of the parts that match any of the wildcard patterns, parted by commas; all but wrappers where None.

    Raises:
        ValueError: a pattern matches none.
    """
    known = parts(role)
    if patterns is None:
        return tuple(name for name in known if name not in WRAPPERS)
    chosen: dict[str, None] = {}
    for pattern in (word.strip() for word in patterns.split(",") if word.strip()):
        found = fnmatch.filter(known, pattern)
        if not found:
            raise ValueError(
                f"{role} = {pattern!r} is not possible{suggest(pattern, known)}: `ommatid parts` lists all"
            )
        chosen |= dict.fromkeys(found)
    return tuple(chosen)
