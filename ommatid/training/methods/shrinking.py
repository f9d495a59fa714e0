"""The steps of a training by progressive shrinking."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ommatid.data import calibration_images
from ommatid.methods.progressive_shrinking import Schedule, random_setting, schedule, smallest
from ommatid.models.backbones.once_for_all import OnceForAll, Subnet
from ommatid.nn.recalibration import recalibrated
from ommatid.tasks.training import Batch, Training
from ommatid.training.methods.taught import answered, softened_divergence
from ommatid.training.optimizer import warmup_cosine

if TYPE_CHECKING:
    from ommatid.training.methods.progressive_shrinking import ProgressiveShrinking
    from ommatid.training.settings import Settings


class Shrinking(Training):
    """Draws sub-networks at every step, by the seed and the step alone, and adds up their gradients.

    A phase begins with the averaged weights of the one before it, and an optimiser that remembers nothing. After the
    first, the full network stays as it is then, to teach. What is judged is the largest and the smallest network: the
    metrics are their means.
    """

    model: OnceForAll
    averaged: OnceForAll | None

    def __init__(self, training: Training, method: ProgressiveShrinking, settings: Settings, steps: int) -> None:
        super().__init__(
            training.model,
            training.objective,
            val_samples=training.val_samples,
            make_optimizer=training.make_optimizer,
            average=training.average,
        )
        assert settings.size is not None
        self.method, self.seed, self.sides = method, settings.seed, method.sides(settings.size)
        self.schedule = schedule(self.model.config, steps, full=method.full)
        self.warmup = min(settings.recipe.warmup_epochs / settings.recipe.epochs, 1.0)
        self.teacher = copy.deepcopy(self.model).requires_grad_(False)
        self.subjects: list[Subnet] = []

    def configure_optimizers(self) -> Any:
        optimizer, _ = self.make_optimizer(self.model)
        rate = LambdaLR(optimizer, partial(phased_rate, schedule=self.schedule, warmup=self.warmup))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        number = self.schedule.number(self.global_step)
        if self.global_step == self.schedule.steps(number).start:
            self._begin(number)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        number = self.schedule.number(self.global_step)
        phase, chance = self.schedule.phases[number], random.Random(f"{self.seed} {self.global_step}")
        images, targets = _resized(batch[0], chance.choice(self.sides)), batch[1]
        taught = self._taught(images) if number else None
        losses = []
        for _ in range(phase.draws):
            self.model.activate(random_setting(phase, chance))
            loss, answers = answered(self.objective, self.model, (images, targets))
            if taught is not None:
                loss = loss + self.method.taught * softened_divergence(answers, taught, 1.0)
            losses.append(loss)
        self.model.activate(self.model.config.largest)
        total = torch.stack(losses).sum()
        self.loss = total.detach() / phase.draws
        self.loss_sum += self.loss
        self.steps += 1
        return total

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        judged = self.judged
        assert isinstance(judged, OnceForAll)
        # Sub-networks of all widths have moved the statistics: what is saved has those of the largest.
        self.subjects = []
        for setting in (smallest(judged.config), judged.config.largest):
            judged.activate(setting)
            self.subjects.append(recalibrated(judged.extract(), self._calibration()))
        judged.put_back_(self.subjects[-1])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for subject in self.subjects:
            losses = self.objective.judge(subject, batch, self._first_seen(len(batch[0]), batch_idx))
            self.val_loss.update(losses)

    def _calibration(self) -> Iterator[Tensor]:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        return (images.to(self.device) for images in calibration_images(data.data.train, self.sides[-1]))

    def _begin(self, number: int) -> None:
        """Before the first step of a phase."""
        self.model.load_state_dict(self.judged.state_dict())
        if number == self.schedule.number(self.schedule.ends[0]):
            self.teacher.load_state_dict(self.model.state_dict())
        stage = self.schedule.phases[number].sort_stage
        if stage is not None:
            self.model.sort_channels_(stage)
        self.judged.load_state_dict(self.model.state_dict())
        optimizer: Any = self.optimizers()
        optimizer.optimizer.state.clear()

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor:
        """What the full network says, normed by the statistics of these images as its sub-networks are."""
        return self.teacher.train()(images)


def phased_rate(step: int, *, schedule: Schedule, warmup: float) -> float:
    """Share of the recipe's rate at a step: in each phase a warm-up (a share of it), then a cosine to zero."""
    number = schedule.number(step)
    steps = schedule.steps(number)
    within = warmup_cosine(step - steps.start, warmup=round(warmup * len(steps)), steps=len(steps))
    return schedule.phases[number].rate * within


def _resized(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, C, side, side)."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
