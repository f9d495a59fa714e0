"""Compositions of parts as what a search chooses from: each is trained for a short while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ommatid.measuring.part_costs import CostTable
from ommatid.methods.composing.search import Tried
from ommatid.methods.composing.space import Space, chosen_parts
from ommatid.models.backbones.pyramid import PyramidConfig
from ommatid.runs.exploration import write_compositions
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.recipes import load_recipe
from ommatid.training.tasks import find_task
from ommatid.workflows.composition_trial import Curve, Trial


class Compositions:
    """training: keyword arguments of `train` for the short trainings; the recipe is "quick" where None.

    Raises ValueError: the data or a setting is impossible.
    """

    noun, done, family = "compositions", "trained", "pyramid"

    def __init__(
        self,
        data: str,
        training: Mapping[str, Any],
        *,
        mixers: str | None,
        channel_mixers: str | None,
        seed: int,
        threads: int | None,
    ) -> None:
        recipe, task = training["recipe"] or "quick", find_task(CLASSIFICATION)
        load_recipe(recipe).changed(**{name: training[name] for name in ("epochs", "batch", "lr")}, precision=None)
        self.images = task.open(data, None)
        side = training["size"] or task.usual_size(self.images)
        mixer, channel_mixer = chosen_parts("mixer", mixers), chosen_parts("channel_mixer", channel_mixers)
        self.space = Space(side, len(self.images.classes), mixer, channel_mixer)
        self.table = CostTable(threads=threads)
        decided = {**training, "recipe": recipe, "size": side, "seed": seed}
        self.training = {"data": data, **decided}
        self.options = {**decided, "mixers": mixers, "channel_mixers": channel_mixers}
        self.facts: dict[str, Any] = {}
        self.title = f"Compositions for {Path(self.images.origin).name}"

    def config(self, fields: dict[str, Any]) -> PyramidConfig:
        return self.space.config(fields)

    def trial(self, tried: Tried, predicted_ms: float, path: Path, rivals: Sequence[Curve]) -> Trial:
        return Trial(tried.number, tried.fields, predicted_ms, path, dict(self.training), tuple(rivals))

    def name(self, fields: Mapping[str, Any]) -> str:
        return ", ".join(fields["mixer"])

    def write(self, folder: Path, front: Mapping[int, dict[str, Any]], winner: Path | None) -> None:
        write_compositions(folder, front, winner)

    def advice(self, folder: Path) -> str:
        return f"Train it: ommatid train --config {folder / 'winner.yaml'} --out FOLDER"
