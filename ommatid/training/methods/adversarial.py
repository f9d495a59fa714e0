"""Training against attacks: TRADES (arXiv 1901.08573), and in turns with the router of a network of experts.

The router's turns: "Robust Mixture-of-Expert Training for Convolutional Neural Networks" (arXiv 2308.10110).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ommatid.methods.attacks import Budget
from ommatid.models.config import require
from ommatid.runs.trained import CLASSIFICATION
from ommatid.training.methods.method import Method

if TYPE_CHECKING:
    from ommatid.tasks.training import Training
    from ommatid.training.settings import Settings

LEVELS = 255


@dataclass(frozen=True)
class Adversarial(Method):
    """Each batch is attacked, and answers to attacked images are drawn to those to the images as they are.

    epsilon, step_size: of the attack, in levels of 255. steps: of the attack. beta: weight of what the attack changes.
    alpha: weight of the router's own cross-entropy, where the model has a router; it deals the classes to the experts.
    """

    epsilon: float = 8.0
    step_size: float = 5.0
    steps: int = 2
    beta: float = 6.0
    alpha: float = 6.0

    @property
    def budget(self) -> Budget:
        return Budget(self.epsilon / LEVELS, self.step_size / LEVELS, self.steps)

    def check(self, settings: Settings) -> None:
        require(settings.task == CLASSIFICATION, "method", "adversarial", f"for classification, not {settings.task}")
        require(0 <= self.epsilon <= LEVELS, "epsilon", self.epsilon, f"from 0 to {LEVELS}")
        require(self.step_size >= 0, "step_size", self.step_size, "0 or more")
        require(self.steps >= 1, "steps", self.steps, "1 or more")
        require(min(self.alpha, self.beta) >= 0, "alpha, beta", (self.alpha, self.beta), "0 or more")
        processes = settings.devices * settings.nodes
        require(processes == 1, "devices", processes, "1 with the method adversarial")

    def training(self, training: Training, settings: Settings, steps: int) -> Training:
        from ommatid.training.methods.alternating import defended

        return defended(training, self, clip=settings.recipe.clip)
