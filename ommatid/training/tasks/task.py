"""What a training has to know of its task. Each task is one file here that answers all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from torch import Tensor, nn

from ommatid.data import Loader, Skipped
from ommatid.measuring.measure import Measurement
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import Family
from ommatid.report.metric import Yardstick
from ommatid.runs.trained import Facts
from ommatid.training.recipes import Recipe

if TYPE_CHECKING:  # Lightning takes seconds to import, and a mistyped setting is answered before
    from ommatid.tasks.training import Batch, MakeOptimizer, Training
    from ommatid.training.settings import Settings


RATES = ("backbone_lr", "layer_decay")
PARTICULAR = {"backbone_lr": 1.0, "layer_decay": 1.0, "class_balance": 0.0}
"""Settings of a recipe that not every task heeds, each with the value by which it does nothing."""


class Sharing(TypedDict):
    """Arguments of `make_loader` that say which share of the batches is one process's, and how they are read."""

    batch: int
    seed: int
    workers: int
    rank: int
    ranks: int


class Part(Protocol):
    """Training or validation samples."""

    @property
    def in_memory(self) -> bool: ...

    def __len__(self) -> int: ...


class TaskData(Protocol):
    """What every task's data offers; the task itself knows more of it."""

    @property
    def origin(self) -> str: ...

    @property
    def train(self) -> Part: ...

    @property
    def val(self) -> Part: ...

    @property
    def skipped(self) -> list[Skipped]: ...

    def split(self) -> dict[str, list[str]]: ...

    def fingerprint(self) -> str: ...


class Task(Protocol):
    """A task's answers.

    Attributes:
        name: in settings and headers.
        model, recipe: where none is named; model_fields: what is set in that model's config.
        embedded: the name of the data that come with ommatid. data_forms: all that `open` takes, in words.
        losses: which losses a recipe may name; the first is taken where it names none.
        heeds: which of those settings of a recipe it heeds that mean nothing to some tasks (`PARTICULAR`).
        columns: of metrics.csv.
        yardstick: what its models are judged by; the first metric decides which epoch is the best.
        published_size: the size of published weights that don't say theirs, in pixels.
        speed_size: side of the images that `compare` measures speed on; None: that of the training.
    """

    name: str
    model: str
    model_fields: Mapping[str, Any]
    recipe: str
    embedded: str
    data_forms: str
    losses: tuple[str, ...]
    heeds: tuple[str, ...]
    columns: tuple[str, ...]
    yardstick: Yardstick
    published_size: int
    speed_size: int | None

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        """The registered model that a name and a decoder's stand for, and the fields of its config.

        Raises ValueError for a decoder where models have none.
        """

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        """As `registry.find`. Raises ValueError for a model that is not for this task."""

    def check(self, settings: Settings) -> None:
        """Raises ValueError for settings that this task cannot be trained with."""

    def open(self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None) -> Any:
        """The data, a TaskData, split by `seed`, or as an earlier opening said. Raises DataError."""

    def facts(self, data: Any) -> dict[str, Any]:
        """What the data are like, beyond their images: JSON-like, for split.json and the pages."""

    def suited(self, recipe: Recipe, data: Any) -> Recipe:
        """The recipe without what would spoil these data."""

    def usual_size(self, data: Any) -> int:
        """Side of the training's images, in pixels, where none is named."""

    def fitted(self, data: Any) -> dict[str, int]:
        """Fields of the model's config that follow from the data."""

    def check_model(self, model: nn.Module, size: int, data: Any) -> None:
        """Tries one image. Raises ValueError where the model cannot be trained on such."""

    def train_loader(self, data: Any, settings: Settings, sharing: Sharing) -> Loader:
        """Batches of an epoch; the last is left out where it is not full."""

    def val_loader(self, data: Any, settings: Settings, sharing: Sharing) -> Loader:
        """Batches of all validation samples, always the same."""

    def training(self, model: nn.Module, data: Any, settings: Settings, make_optimizer: MakeOptimizer) -> Training:
        """The model with what it is trained for."""

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        """Its throughput in the yardstick's work."""

    def header(self, data: Any, settings: Settings) -> Facts:
        """What the weights say beside the architecture."""

    def baseline(self, data: Any) -> dict[str, float]:
        """For result.json: what is reached without any model, where that says something."""

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of a batch by their names."""

    def drawn(self, batch: Batch) -> Tensor:
        """A batch as pictures to look at: (N, 3, h, w), values 0 to 1."""


def undivided(task: str, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
    """`composed` where models are named as a whole."""
    require(decoder is None, "decoder", decoder, f"none: models for {task} have no decoder")
    return model, dict(chosen)
