"""The loss of a training by a teacher's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.config import require
from ommatid.runs.trained import open_trained
from ommatid.tasks.training import Batch, Objective, Training

if TYPE_CHECKING:
    from ommatid.training.methods.distill import Distillation


def taught(training: Training, method: Distillation) -> Training:
    """The same training, by a teacher's answers too. Raises ValueError where the teacher knows other classes."""
    teacher = open_trained(method.teacher)
    classes = getattr(getattr(training.model, "config", None), "num_classes", None)
    require(len(teacher.facts.classes) == classes, "teacher", method.teacher, f"a classifier of {classes} classes")
    training.objective = Taught(training.objective, teacher.model, method)
    return training


def softened_divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teacher's answers (B, C), both softened, averaged, with gradients of the usual size."""
    soft, target = (F.log_softmax(values / temperature, -1) for values in (logits, taught))
    return F.kl_div(soft, target, log_target=True, reduction="batchmean") * temperature**2


def answered(objective: Objective, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The objective's loss, and the logits (B, C) that it came from."""
    answers: list[Tensor] = []
    hook = model.register_forward_hook(lambda _, __, logits: answers.append(logits))
    loss = objective.loss(model, batch)
    hook.remove()
    return loss, answers[0]


class Taught(Objective):
    """An objective for logits, and the teacher's answers to the same images, mixed or cut as they are."""

    def __init__(self, plain: Objective, teacher: nn.Module, method: Distillation) -> None:
        super().__init__()
        self.plain, self.metrics = plain, plain.metrics
        self.share, self.temperature = method.share, method.temperature
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: no part of checkpoints

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        plain, answers = answered(self.plain, model, batch)
        images = batch[0]
        with torch.no_grad():
            expected = self._teacher[0].to(images.device)(images)
        return (1 - self.share) * plain + self.share * softened_divergence(answers, expected, self.temperature)

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        return self.plain.judge(model, batch, kept)
