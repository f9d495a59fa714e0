"""How good a classifier still is where images were changed, hardly visibly, so as to mislead it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import to_pil_image

from ommatid.data import Samples, eval_transform, make_loader
from ommatid.methods.attacks import Budget, parse_attack, pgd
from ommatid.report.pictures import png_uri
from ommatid.runs.inference import probabilities
from ommatid.runs.trained import Trained

EXAMPLES = 12
SIDE = 256


class Attacked(NamedTuple):
    """Answers (N,) before and after the attack with the confidence (N,) after it, labels (N,), and misled images."""

    before: Tensor
    after: Tensor
    confidence: Tensor
    labels: Tensor
    misled: list[tuple[int, Tensor]]


def under_attack(
    trained: Trained, samples: Samples, words: str, *, batch: int, size: int, device: torch.device
) -> dict[str, Any]:
    """What an evaluation says of an attack: accuracy, accuracy by class, and pictures that misled the model.

    The attack sees the model whole, follows the gradient of its cross-entropy on the true class, and begins at a random
    place within its reach. The same twice.
    """
    budget = parse_attack(words)
    found = _attack(trained, samples, budget, batch=batch, size=size, device=device)
    right = found.after.eq(found.labels)
    classes = samples.classes
    return {
        "words": words,
        "epsilon": budget.epsilon,
        "step_size": budget.step_size,
        "steps": budget.steps,
        "accuracy": right.float().mean().item(),
        "accuracy_before": found.before.eq(found.labels).float().mean().item(),
        "per_class": [
            {"name": name, "accuracy": right[mine].float().mean().item(), "support": int(mine.sum())}
            for name, mine in ((name, found.labels == index) for index, name in enumerate(classes))
            if mine.any()
        ],
        "examples": [
            {
                "image": png_uri(to_pil_image(image), SIDE),
                "path": samples.paths[index],
                "truth": classes[int(found.labels[index])],
                "prediction": classes[int(found.after[index])],
                "confidence": found.confidence[index].item(),
            }
            for index, image in found.misled
        ],
    }


def _attack(
    trained: Trained, samples: Samples, budget: Budget, *, batch: int, size: int, device: torch.device
) -> Attacked:
    model, facts = trained.model.to(device), trained.facts
    mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (facts.mean, facts.std))
    parts: list[tuple[Tensor, ...]] = []
    misled: list[tuple[int, Tensor]] = []
    seen = 0
    with torch.random.fork_rng(), fixed_weights(model):
        torch.manual_seed(0)
        for images, labels in make_loader(samples, eval_transform(size), batch=batch, shuffle=False, seed=0):
            images, truth = images.to(device), labels.to(device)
            pixels = (images * std + mean).clamp(0, 1)
            attacked = pgd(lambda image: F.cross_entropy(model((image - mean) / std), truth), pixels, budget)  # noqa: B023
            before = probabilities(model, images, device).argmax(1)
            confidence, after = probabilities(model, (attacked - mean) / std, device).max(1)
            fooled = (before.eq(labels) & after.ne(labels)).nonzero().flatten().tolist()
            misled += [(seen + index, attacked[index].cpu()) for index in fooled[: EXAMPLES - len(misled)]]
            parts.append((before, after, confidence, labels))
            seen += len(labels)
    before, after, confidence, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return Attacked(before, after, confidence, labels, misled)


@contextmanager
def fixed_weights(model: nn.Module) -> Iterator[None]:
    """While the block runs, no gradient is computed for the weights: an attack asks for that of the image alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
