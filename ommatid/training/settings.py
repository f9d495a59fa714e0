"""Every setting of a training, checked: what config.yaml holds, and what a run is repeated from."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch

from ommatid.models.config import require, suggest
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.methods import find_method
from ommatid.training.recipes import Recipe
from ommatid.training.tasks import find_task
from ommatid.training.tasks.task import PARTICULAR

STRATEGIES = ("auto", "ddp", "fsdp")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the outcome of a training.

    data: as the task opens it. model: a registered name. set: fields of the model's config. task: what it is trained
    for. degrade: for restoration, what is done to pictures so that it is undone. size: side in pixels of the images, or
    of the patches before restoration; None until it is chosen. devices: accelerators, or processes on CPU. method: what
    is done beyond the recipe, in words. workers: processes that read images, None until it is chosen.

    Raises:
        ValueError: a value is impossible; names setting, value and what is allowed.
    """

    data: str
    model: str
    set: dict[str, Any]
    recipe: Recipe
    task: str = CLASSIFICATION
    degrade: str | None = None
    size: int | None = None
    weights: str | None = None
    seed: int = 0
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    compile: bool = False
    method: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        task = find_task(self.task)
        for name in ("size", "devices", "nodes"):
            value = getattr(self, name)
            require(value is None or (_is_integer(value) and value >= 1), name, value, "1 or more")
        require(_is_integer(self.seed) and 0 <= self.seed < 2**32, "seed", self.seed, "an integer from 0 to 2**32 - 1")
        require(
            self.workers is None or (_is_integer(self.workers) and self.workers >= 0),
            "workers",
            self.workers,
            "0 or more",
        )
        require(self.strategy in STRATEGIES, "strategy", self.strategy, ", ".join(STRATEGIES))
        self._check_devices()
        processes = self.devices * self.nodes
        require(
            self.recipe.batch % processes == 0,
            "batch",
            self.recipe.batch,
            f"a multiple of the {processes} processes, which share it",
        )
        task.check(self)
        loss = self.recipe.loss
        require(loss is None or loss in task.losses, "loss", loss, f"{', '.join(task.losses)} for {self.task}")
        for name, idle in PARTICULAR.items():
            value = getattr(self.recipe, name)
            require(name in task.heeds or value == idle, name, value, f"{idle:g} for {self.task}: it has no use for it")
        task.find(self.model, **self.set)
        find_method(self.method).check(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-like; `from_dict` takes it back."""
        return asdict(self) | {"recipe": self.recipe.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Self:
        """What a run's config.yaml says. Raises ValueError, naming `where`, for what is no setting, or missing."""
        known = {field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(f"{where}: no setting {name!r}{suggest(str(name), known)}")
        for name in ("data", "model", "recipe"):
            if name not in values:
                raise ValueError(f"{where}: {name} is missing")
        if not isinstance(values["recipe"], dict):
            raise ValueError(
                f"{where}: recipe is {values['recipe']!r}; expected its contents, as a run's config.yaml has"
            )
        return cls(**({"set": {}} | values | {"recipe": Recipe.from_dict(values["recipe"], f"{where}, recipe")}))

    def _check_devices(self) -> None:
        accelerators = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        require(
            self.devices <= (accelerators or os.cpu_count() or 1),
            "devices",
            self.devices,
            f"up to {accelerators} accelerators here"
            if accelerators
            else f"up to {os.cpu_count()} processes here (CPU)",
        )
        require(
            self.strategy != "fsdp" or accelerators > 0, "strategy", "fsdp", "auto or ddp where there is no accelerator"
        )
        require(
            self.recipe.precision != "float16" or accelerators > 0,
            "precision",
            "float16",
            "float32 or bfloat16 where there is no accelerator",
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
