"""The task classification, as a training sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ommatid.data import (
    MEAN,
    STD,
    ImageData,
    Loader,
    batch_mix,
    eval_transform,
    make_loader,
    open_data,
    train_transform,
)
from ommatid.measuring.measure import Measurement
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import Family, find_classifier
from ommatid.report.metric import CLASSIFIERS
from ommatid.runs.run import COLUMNS
from ommatid.runs.trained import CLASSIFICATION, WeightFacts
from ommatid.training.initial import check_size
from ommatid.training.recipes import Recipe
from ommatid.training.tasks.task import RATES, undivided

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, MakeOptimizer, Training
    from ommatid.training.settings import Settings
    from ommatid.training.tasks.task import Sharing

SMALLEST, LARGEST = 32, 224
"""Sides of images, in pixels, between which a training's is chosen where none is named."""


class ClassificationTask:
    """One of several classes for each image."""

    name = CLASSIFICATION
    model = "pvt_v2_b0"
    model_fields: Mapping[str, Any] = {}
    recipe = "default"
    embedded = "digits"
    data_forms = "digits, an image folder, a CSV of path,label, or torchvision:NAME"
    losses: tuple[str, ...] = ("cross_entropy",)
    heeds: tuple[str, ...] = RATES
    columns: tuple[str, ...] = COLUMNS
    yardstick = CLASSIFIERS
    published_size = LARGEST
    speed_size: int | None = None

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        return undivided(self.name, model, chosen, decoder)

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        return find_classifier(model, **overrides)

    def check(self, settings: Settings) -> None:
        for name in ("num_classes", "in_channels"):
            if name in settings.set:
                raise ValueError(f"set {name}={settings.set[name]!r} is not possible: it follows from the data")
        if settings.degrade is not None:
            raise ValueError(f"degrade = {settings.degrade!r} is not possible: it is for the task restoration alone")
        share = settings.recipe.backbone_lr
        require(share > 0, "backbone_lr", share, "above 0 for classification: only backbones under a decoder freeze")

    def open(
        self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None
    ) -> ImageData:
        return open_data(data, seed=seed, split=None if split is None else dict(split))

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {"classes": list(data.classes)}

    def suited(self, recipe: Recipe, data: ImageData) -> Recipe:
        return recipe.suited_to(data)

    def usual_size(self, data: ImageData) -> int:
        """The data's own, up to a multiple of 32."""
        return min(max(-(-data.native_size // 32) * 32, SMALLEST), LARGEST)

    def fitted(self, data: ImageData) -> dict[str, int]:
        return {"num_classes": len(data.classes)}

    def check_model(self, model: nn.Module, size: int, data: ImageData) -> None:
        check_size(model, size, len(data.classes))

    def train_loader(self, data: ImageData, settings: Settings, sharing: Sharing) -> Loader:
        augmentation = settings.recipe.augmentation
        assert settings.size is not None
        return make_loader(
            data.train,
            train_transform(augmentation, settings.size),
            shuffle=True,
            drop_last=True,
            mix=batch_mix(augmentation, len(data.classes)),
            **sharing,
        )

    def val_loader(self, data: ImageData, settings: Settings, sharing: Sharing) -> Loader:
        assert settings.size is not None
        return make_loader(data.val, eval_transform(settings.size), shuffle=False, **sharing)

    def training(
        self, model: nn.Module, data: ImageData, settings: Settings, make_optimizer: MakeOptimizer
    ) -> Training:
        from ommatid.tasks.classification import Classification

        return Classification(
            model,
            num_classes=len(data.classes),
            val_samples=len(data.val),
            make_optimizer=make_optimizer,
            label_smoothing=settings.recipe.label_smoothing,
            average=settings.recipe.ema,
        )

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        return found.throughput

    def header(self, data: ImageData, settings: Settings) -> WeightFacts:
        assert settings.size is not None
        return WeightFacts(settings.model, data.classes, settings.size, MEAN, STD)

    def baseline(self, data: ImageData) -> dict[str, float]:
        return {}

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        images, targets = batch
        return {"images": images, "targets": targets}

    def drawn(self, batch: Batch) -> Tensor:
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        return batch[0].float() * std + mean
