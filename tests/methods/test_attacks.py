"""Attacks stay near the image, go uphill, and training losses fit what they defend."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ommatid.methods.adversarial import router_loss
from ommatid.methods.attacks import Budget, ascent, parse_attack, pgd, trades_loss


def test_steps_go_uphill_within_reach() -> None:
    torch.manual_seed(0)
    model, image, labels = torch.nn.Linear(12, 3), torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])

    def loss(attacked: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(attacked.flatten(1)), labels)

    steps = list(ascent(loss, image, image, Budget(0.1, 0.04, 4)))
    assert [step.terms.item() for step in steps] == sorted(step.terms.item() for step in steps)
    for attacked in [step.image for step in steps] + [pgd(loss, image, Budget(0.1, 0.04, 2))]:
        assert (attacked - image).abs().max() <= 0.1 + 1e-6
        assert attacked.min() >= 0
        assert attacked.max() <= 1
    assert all(parameter.grad is None for parameter in model.parameters())


def test_words_say_the_budget() -> None:
    assert parse_attack("pgd 8/255 x20") == Budget(8 / 255, 2 / 255, 20)
    assert parse_attack("PGD 0.1 step 1/255") == Budget(0.1, 1 / 255, 10)
    assert parse_attack("fgsm 4/255") == Budget(4 / 255, 4 / 255, 1)


def test_without_an_attack_only_the_task_is_left() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 6), torch.tensor([0, 5, 3, 1, 2])
    torch.testing.assert_close(trades_loss(logits, logits, labels, 6.0), F.cross_entropy(logits, labels))
    scores = torch.randn(5, 2)
    dealt = F.cross_entropy(scores, torch.tensor([0, 1, 1, 1, 0]))
    torch.testing.assert_close(router_loss(scores, scores, labels, alpha=6.0, beta=6.0), 6 * dealt)
