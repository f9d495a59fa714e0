"""The task pre-training, as a training sees it: pictures alone, whatever their labels are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ommatid.data import MEAN, STD, ImageData, Loader
from ommatid.data.unlabelled import open_unlabelled
from ommatid.measuring.measure import Measurement
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import Family, find_classifier
from ommatid.report.metric import PRETRAINED
from ommatid.runs.trained import PRETRAINING, PretrainedFacts
from ommatid.training.initial import answer_of
from ommatid.training.methods import METHODS, find_method
from ommatid.training.methods.unlabelled import Unlabelled
from ommatid.training.recipes import Recipe
from ommatid.training.tasks.task import undivided

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, MakeOptimizer, Training
    from ommatid.training.settings import Settings
    from ommatid.training.tasks.task import Sharing

SMALLEST, LARGEST = 64, 224
"""Sides of images, in pixels, between which a training's is chosen where none is named."""

SMALL: dict[str, Any] = {"dims": [48, 96, 192, 384], "depths": [2, 2, 4, 2], "heads": [2, 4, 8, 16]}


class PretrainingTask:
    """What is hidden of each picture. What is trained, and how, the method says."""

    name = PRETRAINING
    model = "swin"
    model_fields: Mapping[str, Any] = SMALL
    recipe = "pretrain"
    embedded = "digits"
    data_forms = "a folder of pictures, digits, a CSV with a column path, or torchvision:NAME; labels are ignored"
    losses: tuple[str, ...] = ()
    heeds: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("epoch", "train_loss", "val_loss", "val_agreement", "lr", "seconds", "waited")
    yardstick = PRETRAINED
    published_size = LARGEST
    speed_size: int | None = None

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        return undivided(self.name, model, chosen, decoder)

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        return find_classifier(model, **overrides)

    def check(self, settings: Settings) -> None:
        for name in ("num_classes", "in_channels"):
            if name in settings.set:
                raise ValueError(
                    f"set {name}={settings.set[name]!r} is not possible: there are no classes, and 3 channels"
                )
        if settings.degrade is not None:
            raise ValueError(f"degrade = {settings.degrade!r} is not possible: it is for the task restoration alone")
        named = ", ".join(name for name, kind in METHODS.items() if issubclass(kind, Unlabelled))
        learns = isinstance(find_method(settings.method), Unlabelled)
        require(learns, "method", settings.method, f"{named} for {self.name}")
        require(settings.strategy != "fsdp", "strategy", "fsdp", f"auto or ddp for {self.name}")
        recipe, mixing = settings.recipe, ("mixup", "cutmix")
        for field, value in [(name, getattr(recipe.augmentation, name)) for name in mixing]:
            require(value == 0, field, value, f"0 for {self.name}: there are no labels to mix")
        require(recipe.label_smoothing == 0, "label_smoothing", recipe.label_smoothing, f"0 for {self.name}")

    def open(
        self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None
    ) -> ImageData:
        return open_unlabelled(data, seed=seed, split=None if split is None else dict(split))

    def facts(self, data: ImageData) -> dict[str, Any]:
        return {}

    def suited(self, recipe: Recipe, data: ImageData) -> Recipe:
        return recipe.suited_to(data)

    def usual_size(self, data: ImageData) -> int:
        """The data's own, up to a multiple of 32."""
        return min(max(-(-data.native_size // 32) * 32, SMALLEST), LARGEST)

    def fitted(self, data: ImageData) -> dict[str, int]:
        return {"num_classes": 0}

    def check_model(self, model: nn.Module, size: int, data: ImageData) -> None:
        answer_of(model, (size, size))

    def train_loader(self, data: ImageData, settings: Settings, sharing: Sharing) -> Loader:
        return _method(settings).loader(data.train, settings, train=True, shuffle=True, drop_last=True, **sharing)

    def val_loader(self, data: ImageData, settings: Settings, sharing: Sharing) -> Loader:
        return _method(settings).loader(data.val, settings, train=False, shuffle=False, **sharing)

    def training(
        self, model: nn.Module, data: ImageData, settings: Settings, make_optimizer: MakeOptimizer
    ) -> Training:
        from ommatid.tasks.pretraining import Pretraining

        return Pretraining(model, val_samples=len(data.val), make_optimizer=make_optimizer, average=settings.recipe.ema)

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        return found.throughput

    def header(self, data: ImageData, settings: Settings) -> PretrainedFacts:
        assert settings.size is not None
        assert settings.method is not None
        return PretrainedFacts(settings.model, settings.method, settings.size, MEAN, STD)

    def baseline(self, data: ImageData) -> dict[str, float]:
        return {}

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        images, drawn = batch
        return {"images": images, "drawn": drawn}

    def drawn(self, batch: Batch) -> Tensor:
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        return batch[0].float().flatten(0, -4) * std + mean


def _method(settings: Settings) -> Unlabelled:
    method = find_method(settings.method)
    assert isinstance(method, Unlabelled)
    return method
