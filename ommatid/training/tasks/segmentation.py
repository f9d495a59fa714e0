"""The task segmentation, as a training sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ommatid.data import Loader
from ommatid.data.dense import (
    IGNORED,
    SceneData,
    SceneSamples,
    canvas,
    make_segmentation_loader,
    open_scenes,
    scene_transform,
)
from ommatid.data.dense.open import EMBEDDED, FORMS
from ommatid.measuring.measure import Measurement
from ommatid.models.config import PartConfig
from ommatid.models.registry import Family, find_segmenter
from ommatid.report.metric import SEGMENTERS
from ommatid.runs.trained import SEGMENTATION, SceneFacts
from ommatid.tasks.segmentation_losses import LOSSES
from ommatid.tasks.whole_or_window import Segmentation
from ommatid.training.initial import answer_of
from ommatid.training.recipes import Recipe
from ommatid.training.tasks import dense

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, MakeOptimizer, Training
    from ommatid.training.settings import Settings
    from ommatid.training.tasks.task import Sharing


class SegmentationTask:
    """A class for every pixel of each image."""

    name = SEGMENTATION
    model = "ibn_net"
    model_fields: Mapping[str, Any] = dense.SMALL | {"decoder_dim": 64}
    recipe = "segment"
    embedded = EMBEDDED
    data_forms = FORMS
    losses: tuple[str, ...] = tuple(LOSSES)
    columns: tuple[str, ...] = (
        *(
            "epoch",
            "train_loss",
            "val_loss",
            "val_miou",
            "val_pixel_accuracy",
            "val_mean_accuracy",
            "lr",
            "seconds",
            "waited",
        ),
    )
    yardstick = SEGMENTERS
    published_size = 512
    speed_size: int | None = None

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        return dense.composed(model, chosen, decoder, "mlp", dense.segmentation_decoders())

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        return find_segmenter(model, **overrides)

    def check(self, settings: Settings) -> None:
        dense.check_dense(self.name, settings)

    def open(
        self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None
    ) -> SceneData:
        return open_scenes(data, "masks", seed=seed, split=None if split is None else dict(split))

    def facts(self, data: SceneData) -> dict[str, Any]:
        return {"classes": list(data.classes)}

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
        return make_segmentation_loader(data.train, transform, shuffle=True, drop_last=True, **sharing)

    def val_loader(self, data: SceneData, settings: Settings, sharing: Sharing) -> Loader:
        return dense.whole_pictures(make_segmentation_loader, data.val, **sharing)

    def training(
        self, model: nn.Module, data: SceneData, settings: Settings, make_optimizer: MakeOptimizer
    ) -> Training:
        from ommatid.tasks.segmentation import Pixels
        from ommatid.tasks.training import Training

        recipe = settings.recipe
        objective = Pixels(
            len(data.classes),
            recipe.loss or self.losses[0],
            Segmentation(recipe.scenes.view, dense.sides(data, settings)),
            class_weights(data.train, recipe.class_balance) if recipe.class_balance else None,
        )
        return Training(model, objective, val_samples=len(data.val), make_optimizer=make_optimizer, average=recipe.ema)

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        return found.throughput

    def header(self, data: SceneData, settings: Settings) -> SceneFacts:
        return dense.scene_facts(self.name, data, settings)

    def baseline(self, data: SceneData) -> dict[str, float]:
        return {}

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        images, classes = batch
        return {"images": images, "classes": classes}

    def drawn(self, batch: Batch) -> Tensor:
        return dense.pixels_of(batch[0])


def class_weights(samples: SceneSamples, power: float) -> Tensor:
    """(C,): each class's share of the pixels to the minus `power`, one in the mean over pixels."""
    counts = torch.zeros(len(samples.classes) + 1, dtype=torch.int64)
    for index in range(len(samples)):
        mask = samples[index][1]["mask"].as_subclass(Tensor).long()
        mask[mask == IGNORED] = len(samples.classes)
        counts += torch.bincount(mask.flatten(), minlength=len(counts))
    shares = (counts[:-1] / counts[:-1].sum()).clamp_min(1e-6)
    weights = shares**-power
    return (weights / (shares * weights).sum()).float()
