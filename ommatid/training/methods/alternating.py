"""The steps of a training against attacks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ommatid.data import MEAN, STD
from ommatid.methods.adversarial import departure, expert_loss, router_loss
from ommatid.methods.attacks import divergence, pgd
from ommatid.tasks.training import Batch, Objective, Training

if TYPE_CHECKING:
    from ommatid.training.methods.adversarial import Adversarial

START_NOISE = 0.001


@runtime_checkable
class Routed(Protocol):
    """A classifier whose router is a part of its own. `scored` gives logits (B, C) and the experts' scores (B, E)."""

    router: nn.Module

    def scores(self, image: Tensor) -> Tensor: ...

    def scored(self, image: Tensor) -> tuple[Tensor, Tensor]: ...


def defended(training: Training, method: Adversarial, *, clip: float) -> Training:
    """The training of the same model against attacks: in turns where it has a router."""
    if isinstance(training.model, Routed) and training.model.router is not None:
        return Alternating(training, method, clip=clip)
    training.objective = Defence(training.objective, method)
    return training


class Pixels:
    """Between normalised images, which models see, and values from 0 to 1, in which attacks are measured."""

    def __init__(self, device: torch.device) -> None:
        self.mean, self.std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (MEAN, STD))

    def of(self, images: Tensor) -> Tensor:
        return (images * self.std + self.mean).clamp(0, 1)

    def normalised(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While the block runs, the model answers as it would after training, and statistics stay as they are."""
    model.eval()
    try:
        yield
    finally:
        model.train()


def near(pixels: Tensor) -> Tensor:
    """Where attacks begin: at the image itself the divergence has no slope."""
    return pixels + START_NOISE * torch.randn_like(pixels)


def indices(targets: Tensor) -> Tensor:
    """Class indices (B,), also of mixed images (B, C)."""
    return targets if targets.dim() == 1 else targets.argmax(1)


class Defence(Objective):
    """The objective of a classifier, with the divergence under attack added to its loss."""

    def __init__(self, objective: Objective, method: Adversarial) -> None:
        super().__init__()
        self.objective = objective
        self.method = method
        self.metrics = objective.metrics

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, _ = batch
        pixels, method = Pixels(images.device), self.method
        with evaluating(model):
            natural = model(images).detach()
            attacked = pgd(
                lambda image: divergence(natural, model(pixels.normalised(image))),
                pixels.of(images),
                method.budget,
                near(pixels.of(images)),
            )
        change = divergence(model(images), model(pixels.normalised(attacked)))
        return self.objective.loss(model, batch) + method.beta / len(images) * change

    def judge(self, model: nn.Module, batch: Batch, kept: int) -> Tensor:
        return self.objective.judge(model, batch, kept)


class Alternating(Training):
    """Per batch, a step of the experts against an attack, then one of the router against a fresh attack."""

    model: Any

    def __init__(self, training: Training, method: Adversarial, *, clip: float) -> None:
        super().__init__(
            training.model,
            training.objective,
            val_samples=training.val_samples,
            make_optimizer=training.make_optimizer,
            average=training.average,
        )
        self.automatic_optimization = False
        self.method = method
        self.clip = clip

    def configure_optimizers(self) -> Any:
        experts = nn.ModuleDict({name: part for name, part in self.model.named_children() if name != "router"})
        made = [self.make_optimizer(part) for part in (experts, self.model.router)]
        return [optimizer for optimizer, _ in made], [schedule for _, schedule in made]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch[0], indices(batch[1])
        model, method, optimizers = self.model, self.method, self.optimizers()
        schedules: Any = self.lr_schedulers()
        logits, scores = model.scored(images)
        answered, _ = model.scored(self._attacked(images, logits, scores))
        expert = expert_loss(logits, answered, labels, beta=method.beta)
        self._step(expert, optimizers[0], schedules[0])  # type: ignore[index]
        routed = model.scores(self._attacked(images, logits, scores))
        router = router_loss(scores, routed, labels, alpha=method.alpha, beta=method.beta)
        self._step(router, optimizers[1], schedules[1])  # type: ignore[index]
        self.loss_sum += self.loss
        self.steps += 1
        return self.loss

    def _attacked(self, images: Tensor, logits: Tensor, scores: Tensor) -> Tensor:
        pixels = Pixels(images.device)
        objective = departure(
            lambda image: self.model.scored(pixels.normalised(image)), logits.detach(), scores.detach()
        )
        with evaluating(self.model):
            attacked = pgd(objective, pixels.of(images), self.method.budget, near(pixels.of(images)))
        return pixels.normalised(attacked)

    def _step(self, loss: Tensor, optimizer: Any, schedule: Any) -> None:
        """One step of one half of the model; gradients of the other half are dropped."""
        self.loss = loss.detach()
        self.zero_grad()
        self.manual_backward(loss, retain_graph=True)
        if self.clip:
            self.clip_gradients(optimizer, self.clip, "norm")
        optimizer.step()
        schedule.step()
