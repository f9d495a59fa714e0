"""How interpreters learn which tokens matter: by trial, against the answer with what is likelier than not.

"IA-RED^2: Interpretability-Aware Redundancy Reduction for Vision Transformers" (arXiv 2106.12620).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ommatid.methods.reduced import Reduced
from ommatid.methods.tokens import patches
from ommatid.methods.tokens.ia_red2 import policy_gradient_loss, reward
from ommatid.nn.trunks.interpreted import InterpretedTrunk

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


def train_interpreters(
    model: Reduced,
    batches: Batches,
    *,
    epochs: int = 1,
    lr: float = 1e-3,
    error_penalty: float = 3.0,
    bound: float = 0.8,
    seed: int = 0,
) -> Reduced:
    """Teaches one group's interpreter after another, with everything else as it is; the model itself, again.

    Groups behind the one that learns keep what it keeps. Fine-tuning the blocks afterwards is plain training.

    Args:
        model: what `drop_tokens` gave.
        batches: gives images and labels, once for each epoch of each group.
        epochs, lr: of each interpreter; AdamW.
        error_penalty: what a wrong answer costs: the larger, the more tokens stay.
        bound: of the probabilities, see `policy_gradient_loss`.
        seed: of the policies that are drawn.
    """
    trunk = model.model.blocks
    assert isinstance(trunk, InterpretedTrunk)
    was_training, asked = model.training, trunk.trained_groups
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    for group, interpreter in enumerate(trunk.interpreters):
        trunk.trained_groups = group + 1
        optimizer = torch.optim.AdamW(interpreter.requires_grad_(True).parameters(), lr=lr)
        for _ in range(epochs):
            for images, labels in batches():
                loss = _loss(model, trunk, group, images, labels, generator, error_penalty, bound)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        interpreter.requires_grad_(False)
    trunk.trained_groups = asked
    return model.train(was_training)


def _loss(
    model: Reduced,
    trunk: InterpretedTrunk,
    group: int,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    error_penalty: float,
    bound: float,
) -> Tensor:
    """The policy gradient of one group, whose policy is drawn; earlier groups keep what is likelier than not."""
    tokens = 1 + patches(model.model)
    noise = torch.full((len(images), len(trunk.groups), tokens), 0.5, device=images.device)
    with torch.no_grad(), trunk.drawn(noise) as shown:
        expected = model(images)
    greedy = shown[-1].policies[group]
    noise[:, group] = torch.rand(len(images), tokens, generator=generator)
    with trunk.drawn(noise) as shown:
        logits = model(images).detach()
    sampled, probability = shown[-1].policies[group], shown[-1].probabilities[group]
    gained = reward(sampled, logits, labels, error_penalty=error_penalty)
    advantage = gained - reward(greedy, expected, labels, error_penalty=error_penalty)
    return policy_gradient_loss(probability, sampled, advantage, bound=bound)
