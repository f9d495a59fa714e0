"""Training against attacks, experts and their router in turns.

"Robust Mixture-of-Expert Training for Convolutional Neural Networks" (arXiv 2308.10110), which alternates two problems
of TRADES (arXiv 1901.08573): experts that answer alike for an image and its attacked copy, and a router that does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ommatid.methods.attacks import Budget, Objective, ascent, divergence, trades_loss
from ommatid.models.backbones.adv_moe import AdvMoEConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part

Scored = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, C, H, W) -> logits (B, classes) and the scores of experts (B, E)."""


def departure(scored: Scored, logits: Tensor, scores: Tensor) -> Objective:
    """What an attack on both makes larger: how far logits and scores go from these, as two divergences (2,)."""

    def objective(attacked: Tensor) -> Tensor:
        attacked_logits, attacked_scores = scored(attacked)
        return torch.stack([divergence(logits, attacked_logits), divergence(scores, attacked_scores)])

    return objective


def expert_loss(logits: Tensor, attacked: Tensor, labels: Tensor, *, beta: float) -> Tensor:
    """What the experts make smaller, of natural and attacked logits (B, classes)."""
    return trades_loss(logits, attacked, labels, beta)


def router_loss(scores: Tensor, attacked: Tensor, labels: Tensor, *, alpha: float, beta: float) -> Tensor:
    """What the router makes smaller, of both scores (B, E): the classes are dealt to the experts in turn."""
    return trades_loss(scores, attacked, labels % scores.shape[-1], beta, weight=alpha)


@register_part("adv_moe", "attack")
class Attack(Procedure):
    """image and noise (B, 3, H, W) -> adversarial, the first gradient, and losses (steps, 2), for linear networks."""

    config: AdvMoEConfig

    def __init__(self, config: AdvMoEConfig) -> None:
        super().__init__(config)
        self.model = nn.Linear(config.dim, config.num_classes)
        self.router = nn.Linear(config.dim, config.num_experts)

    def forward(self, image: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config, image = self.config, (image + 1) / 2
        objective = departure(self._scored, *self._scored(image))
        budget = Budget(config.epsilon, config.step_size, config.steps)
        steps = list(ascent(objective, image, image + config.start_noise * noise, budget))
        return {
            "gradient": steps[0].gradient,
            "losses": torch.stack([step.terms for step in steps]),
            "adversarial": steps[-1].image,
        }

    def _scored(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pixels = image.flatten(1)
        return self.model(pixels), self.router(pixels)


@register_part("adv_moe", "losses")
class Losses(Procedure):
    """logits and logits_adv (B, classes), scores and scores_adv (B, E), label (B,) -> both losses and their sum."""

    config: AdvMoEConfig

    def forward(  # type: ignore[override]
        self, logits: Tensor, logits_adv: Tensor, scores: Tensor, scores_adv: Tensor, label: Tensor
    ) -> dict[str, Tensor]:
        alpha, beta = self.config.alpha, self.config.beta
        experts = expert_loss(4 * logits, 4 * logits_adv, label, beta=beta)
        router = router_loss(4 * scores, 4 * scores_adv, label, alpha=alpha, beta=beta)
        losses = {"expert_loss": experts, "router_loss": router, "total": experts + router}
        return {name: loss.view(1) for name, loss in losses.items()}
