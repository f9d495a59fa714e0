"""What `reduce` asks of a task: by what its models can be reduced, and how what comes out is seen and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image
from torch import Tensor, nn

from ommatid.models.model import Model
from ommatid.report.metric import Metric
from ommatid.runs.trained import Opened


@dataclass(frozen=True)
class Method:
    """One way to compute fewer tokens.

    make: of a model and a setting, and of what the task has to learn from, the reduced model. settings: tried where
    none are given, mildest first. told: what the number of a setting means. epochs: of learning beforehand, by default.
    note: what is worth knowing. batch: at which it is judged, None for any.
    """

    make: Callable[..., Model]
    settings: tuple[float, ...]
    told: str
    epochs: int = 0
    note: str = ""
    batch: int | None = None


class Subject(Protocol):
    """A trained model, with the images that it and its smaller forms are judged on."""

    @property
    def trained(self) -> Opened[Any, Any]: ...

    @property
    def source(self) -> str:
        """What the data is called."""

    @property
    def samples(self) -> Sized:
        """What it is judged on."""

    @property
    def name(self) -> str:
        """Of the model, for people."""

    @property
    def metric(self) -> Metric:
        """What is judged by; a share, from 0 to 1."""

    @property
    def methods(self) -> Mapping[str, Method]:
        """By name, the usual one first. Raises ValueError where the model can be reduced by none."""

    @property
    def header(self) -> dict[str, str]:
        """What files of reduced models say beside the architecture."""

    @property
    def finetuning(self) -> Mapping[str, Any]:
        """Arguments of a training that goes on from a reduced model."""

    def reduced(self, method: Method, setting: float, *, epochs: int, batch: int) -> Model:
        """The model with fewer tokens. epochs, batch: of what is learned beforehand, if anything."""

    def timed(self, model: nn.Module) -> nn.Module:
        """What is called for the answer to one of `images`."""

    def images(self, count: int) -> list[Tensor]:
        """At most so many real ones, (1, 3, H, W) each, as the model sees them."""

    def judge(self, model: nn.Module, batch: int) -> float:
        """The metric, over all images."""

    def pictures(self, model: nn.Module, count: int) -> list[tuple[Image.Image, Tensor]]:
        """A few images, and what became of their patches, (h, w) integers: the same for those that became one token,
        -1 for those that went no further. Empty where the model keeps every token.
        """
