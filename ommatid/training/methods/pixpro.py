"""Pre-training by two views, whose pixels are to agree where they lie on one another: "PixPro" (arXiv 2011.10043)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ommatid.data import Loader, Samples, eval_transform
from ommatid.data.loader import epoch_loader
from ommatid.methods.pretraining.momentum import momentum_at
from ommatid.models.backbone import Backbone
from ommatid.models.config import require
from ommatid.models.registry import find
from ommatid.training.methods.unlabelled import Unlabelled

if TYPE_CHECKING:
    from lightning.pytorch import Callback

    from ommatid.training.settings import Settings


@dataclass(frozen=True)
class MatchingViews(Unlabelled):
    """The last maps of two views, one by the backbone and one by a copy that follows it, agree where they overlap.

    momentum: share of the copy that stays in the first step; it grows to 1. pos_ratio: how far apart, in diagonals of
    the larger pixel, pixels still match. inner_dim, out_dim: of the projectors. instance_weight: of the loss of whole
    views against each other.
    """

    momentum: float = 0.99
    pos_ratio: float = 0.7
    inner_dim: int = 4096
    out_dim: int = 256
    instance_weight: float = 0.0

    def check(self, settings: Settings) -> None:
        super().check(settings)
        require(0 <= self.momentum <= 1, "momentum", self.momentum, "from 0 to 1")
        require(self.pos_ratio > 0, "pos_ratio", self.pos_ratio, "more than 0")
        require(
            min(self.inner_dim, self.out_dim) >= 1, "inner_dim, out_dim", (self.inner_dim, self.out_dim), "1 or more"
        )
        require(self.instance_weight >= 0, "instance_weight", self.instance_weight, "0 or more")
        family, config = find(settings.model)
        kind = family.class_of(config)
        fits = issubclass(kind, Backbone) and not kind.batch_dependent
        require(fits, "model", settings.model, "a backbone with maps, with the method pixpro")

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        from ommatid.methods.pretraining.learner import ready
        from ommatid.methods.pretraining.view_matching import ViewMatcher

        assert isinstance(model, Backbone)
        assert settings.size is not None
        learner = ViewMatcher(
            model,
            momentum=self.momentum,
            pos_ratio=self.pos_ratio,
            inner_dim=self.inner_dim,
            out_dim=self.out_dim,
            instance_weight=self.instance_weight,
        )
        return ready(learner, settings.size)

    def callbacks(self, steps: int) -> list[Callback]:
        return [growing(self.momentum, steps)]

    def loader(self, samples: Samples, settings: Settings, *, train: bool, **options: Any) -> Loader:
        assert settings.size is not None
        draw = partial(_views, samples, settings.size, settings.recipe.augmentation.flip, not train)
        return epoch_loader(samples, draw, _joined, **options)


def growing(momentum: float, steps: int) -> Callback:
    """Sets the learner's momentum before each step."""
    from lightning.pytorch import Callback, Trainer

    class Growing(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: nn.Module, *_: object) -> None:
            pl_module.get_submodule("model").momentum = momentum_at(trainer.global_step, steps, momentum)  # type: ignore[assignment]

    return Growing()


def _views(samples: Samples, size: int, flip: float, fixed: bool, index: int) -> tuple[Tensor, Tensor]:
    from ommatid.methods.pretraining.views import random_views

    image = samples.tensor(index)[0]
    if fixed:
        torch.default_generator.manual_seed(zlib.crc32(samples.paths[index].encode()))
    return random_views(image, size, flip=flip)


def _joined(drawn: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Views (B, 2, 3, H, W), normalised, and boxes (B, 2, 4)."""
    views, boxes = zip(*drawn, strict=True)
    return eval_transform(views[0].shape[-1]).normalize(torch.stack(views)), torch.stack(boxes)
