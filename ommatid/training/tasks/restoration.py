"""The task restoration, as a training sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.data import Loader
from ommatid.data.degrade import parse
from ommatid.data.pictures import PictureData, make_patch_loader, make_picture_loader, open_pictures
from ommatid.measuring.measure import Measurement
from ommatid.measuring.pixels import PICTURE_SIDE, megapixels_per_second
from ommatid.models.config import PartConfig
from ommatid.models.registry import Family, find_restorer
from ommatid.models.restorer import Restorer
from ommatid.report.metric import RESTORERS
from ommatid.runs.trained import RESTORATION, RestorerFacts
from ommatid.tasks.restoration_baseline import border, without_network
from ommatid.tasks.restoration_losses import LOSSES
from ommatid.training.initial import check_patch
from ommatid.training.recipes import Recipe
from ommatid.training.tasks.task import undivided

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, MakeOptimizer, Training
    from ommatid.training.settings import Settings
    from ommatid.training.tasks.task import Sharing

PATCH = 32
"""Side in pixels of training patches before restoration: small enough for thousands of steps in minutes."""

VALIDATED = 512
"""Of a picture that is larger, the middle: clean pixels along a side that are judged after each epoch."""

SMALL = {
    "dim": 32,
    "groups": 2,
    "blocks": 2,
    "kernel_size": 5,
    "group_channels": 16,
    "heads": 4,
    "dynamic": False,
    "tlc_kernel": PATCH,
}
"""Of the usual model: published sizes take days on a processor, this one learns in minutes. Plain convolutions take
half the time of dynamic ones; channels attend within tiles of the size that they were trained on."""


class RestorationTask:
    """A better picture of the same scene for each picture."""

    name = RESTORATION
    model = "dlgsanet"
    model_fields: Mapping[str, Any] = SMALL
    recipe = "restore"
    embedded = "photographs"
    data_forms = "photographs, a folder of pictures, or a folder of pairs in input/ and target/"
    losses: tuple[str, ...] = tuple(LOSSES)
    heeds: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("epoch", "train_loss", "val_loss", "val_psnr", "val_ssim", "lr", "seconds", "waited")
    yardstick = RESTORERS
    published_size = PATCH
    speed_size: int | None = PICTURE_SIDE

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        return undivided(self.name, model, chosen, decoder)

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        return find_restorer(model, **overrides)

    def check(self, settings: Settings) -> None:
        for name in ("scale", "in_channels"):
            if name in settings.set:
                raise ValueError(f"set {name}={settings.set[name]!r} is not possible: it follows from the data")
        if settings.degrade is not None:
            parse(settings.degrade)

    def open(
        self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None
    ) -> PictureData:
        return open_pictures(data, degrade=degrade, seed=seed, split=None if split is None else dict(split))

    def facts(self, data: PictureData) -> dict[str, Any]:
        return {"degrade": data.degradation.text if data.degradation else None}

    def suited(self, recipe: Recipe, data: PictureData) -> Recipe:
        return recipe

    def usual_size(self, data: PictureData) -> int:
        return PATCH

    def fitted(self, data: PictureData) -> dict[str, int]:
        return {"scale": data.scale}

    def check_model(self, model: nn.Module, size: int, data: PictureData) -> None:
        data.train.leave_out_smaller(size)
        check_patch(model, size, data.scale)

    def train_loader(self, data: PictureData, settings: Settings, sharing: Sharing) -> Loader:
        assert settings.size is not None
        return make_patch_loader(data.train, settings.size, shuffle=True, drop_last=True, **sharing)

    def val_loader(self, data: PictureData, settings: Settings, sharing: Sharing) -> Loader:
        """One at a time: pictures differ in size."""
        alone = {name: value for name, value in sharing.items() if name != "batch"}
        return make_picture_loader(data.val, VALIDATED, **alone)

    def training(
        self, model: nn.Module, data: PictureData, settings: Settings, make_optimizer: MakeOptimizer
    ) -> Training:
        from ommatid.tasks.restoration import Restoration

        return Restoration(
            model,
            val_samples=len(data.val),
            make_optimizer=make_optimizer,
            loss=settings.recipe.loss or self.losses[0],
            border=border(data.scale),
            average=settings.recipe.ema,
        )

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        assert isinstance(model, Restorer)
        return megapixels_per_second(found, model.scale)

    def header(self, data: PictureData, settings: Settings) -> RestorerFacts:
        assert settings.size is not None
        return RestorerFacts(settings.model, settings.degrade, settings.size)

    def baseline(self, data: PictureData) -> dict[str, float]:
        """Metrics of the degraded pictures themselves, or of their bicubic enlargements."""
        from ommatid.tasks.restoration_metrics import restoration_metrics

        metrics = restoration_metrics(border(data.scale))
        for degraded, clean in make_picture_loader(data.val, VALIDATED, seed=0):
            metrics.update(without_network(degraded, data.scale), clean)
        return {name: value.item() for name, value in metrics.compute().items()}

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        degraded, clean = batch
        return {"degraded": degraded, "clean": clean}

    def drawn(self, batch: Batch) -> Tensor:
        """Each patch beside what it should become."""
        degraded, clean = batch
        return torch.cat([F.interpolate(degraded, clean.shape[-2:], mode="nearest"), clean], dim=-1)
