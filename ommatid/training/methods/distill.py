"""Training by another model's answers beside the labels: "Distilling the Knowledge" (arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ommatid.models.config import require
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.methods.method import Method

if TYPE_CHECKING:
    from ommatid.tasks.training import Training
    from ommatid.training.settings import Settings


@dataclass(frozen=True)
class Distillation(Method):
    """The loss is (1 - share) of the task's own, and `share` of the divergence from the teacher's answers.

    teacher: a run or weights of a classifier of the same classes. temperature: what logits are divided by first.
    """

    teacher: str = ""
    share: float = 0.7
    temperature: float = 2.0

    def check(self, settings: Settings) -> None:
        require(settings.task == CLASSIFICATION, "method", "distill", f"for classification, not {settings.task}")
        require(bool(self.teacher), "teacher", self.teacher, "a run or weights, as in distill[teacher=runs/large]")
        require(0 <= self.share <= 1, "share", self.share, "from 0 to 1")
        require(self.temperature > 0, "temperature", self.temperature, "more than 0")

    def training(self, training: Training, settings: Settings, steps: int) -> Training:
        from ommatid.training.methods.taught import taught

        return taught(training, self)
