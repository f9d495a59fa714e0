"""What the tasks of annotated pictures have in common; each of them is one of these, with what is special to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ommatid.data import Loader
from ommatid.data.dense import SceneData, Wanted, canvas, open_scenes, scene_transform
from ommatid.data.dense.open import EMBEDDED, FORMS
from ommatid.measuring.measure import Measurement
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import Family
from ommatid.report.metric import Yardstick
from ommatid.runs.trained import SceneFacts
from ommatid.training.initial import answer_of
from ommatid.training.recipes import Recipe
from ommatid.training.tasks import dense
from ommatid.training.tasks.task import RATES

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, MakeOptimizer, Objective, Training
    from ommatid.training.settings import Settings
    from ommatid.training.tasks.task import Sharing


def columns_of(*metrics: str) -> tuple[str, ...]:
    """Of metrics.csv, with what is judged by between the losses and the rate."""
    return ("epoch", "train_loss", "val_loss", *(f"val_{name}" for name in metrics), "lr", "seconds", "waited")


@dataclass(kw_only=True)
class SceneTask:
    """A task of annotated pictures.

    wanted: what its data say of a picture. columns: as of every task, made by `columns_of`. decoders: the family of
    each, by its name; usual: the one where none is named. find_model: as `find`. objective: what a model is trained
    for. make_loader: batches of samples. parts: tensors of a batch by name. picture: a batch to look at. views: those
    that pictures can be seen by.
    """

    name: str
    wanted: Wanted
    recipe: str
    yardstick: Yardstick
    columns: tuple[str, ...]
    published_size: int
    decoders: Callable[[], Mapping[str, str]]
    usual: str
    find_model: Callable[..., tuple[Family, PartConfig]]
    objective: Callable[[SceneData, Settings], Objective]
    make_loader: Callable[..., Loader]
    parts: Callable[[Batch], dict[str, Tensor]]
    picture: Callable[[Batch], Tensor]
    losses: tuple[str, ...] = ()
    heeds: tuple[str, ...] = RATES
    views: tuple[str, ...] = ("whole",)
    model: str = "ibn_net"
    model_fields: Mapping[str, Any] = field(default_factory=lambda: dense.SMALL | {"decoder_dim": 64})
    embedded: str = EMBEDDED
    data_forms: str = FORMS
    speed_size: int | None = None

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        return dense.composed(model, chosen, decoder, self.usual, self.decoders())

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        return self.find_model(model, **overrides)

    def check(self, settings: Settings) -> None:
        dense.check_dense(self.name, settings)
        view = settings.recipe.scenes.view
        require(view in self.views, "scenes view", view, f"{' or '.join(self.views)}, for {self.name}")

    def open(
        self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None
    ) -> SceneData:
        return open_scenes(data, self.wanted, seed=seed, split=None if split is None else dict(split))

    def facts(self, data: SceneData) -> dict[str, Any]:
        return {"classes": list(data.classes)} | ({"stuff": list(data.stuff)} if data.stuff else {})

    def suited(self, recipe: Recipe, data: SceneData) -> Recipe:
        return recipe

    def usual_size(self, data: SceneData) -> int:
        return dense.usual_size(data)

    def fitted(self, data: SceneData) -> dict[str, int]:
        return {"num_classes": len(data.classes)}

    def check_model(self, model: nn.Module, size: int, data: SceneData) -> None:
        answer_of(model, canvas(data.train.sizes, size))

    def train_loader(self, data: SceneData, settings: Settings, sharing: Sharing) -> Loader:
        transform = scene_transform(settings.recipe.scenes, dense.sides(data, settings))
        return self.make_loader(data.train, transform, shuffle=True, drop_last=True, **sharing)

    def val_loader(self, data: SceneData, settings: Settings, sharing: Sharing) -> Loader:
        return dense.whole_pictures(self.make_loader, data.val, **sharing)

    def training(
        self, model: nn.Module, data: SceneData, settings: Settings, make_optimizer: MakeOptimizer
    ) -> Training:
        from ommatid.tasks.training import Training

        return Training(
            model,
            self.objective(data, settings),
            val_samples=len(data.val),
            make_optimizer=make_optimizer,
            average=settings.recipe.ema,
        )

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        return found.throughput

    def header(self, data: SceneData, settings: Settings) -> SceneFacts:
        return dense.scene_facts(self.name, data, settings)

    def baseline(self, data: SceneData) -> dict[str, float]:
        return {}

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        return self.parts(batch)

    def drawn(self, batch: Batch) -> Tensor:
        return self.picture(batch)
