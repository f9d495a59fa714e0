"""Rectified flow: pictures from noise along straight lines, one Euler step after another.

"Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (arXiv 2403.03206), as DiT-MoE
(arXiv 2407.11633) trains and samples with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ommatid.models.config import require_positive
from ommatid.models.generation.dit_moe import DiTMoE, DiTMoEConfig
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part

GUIDED_CHANNELS = 3

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Noisy pictures (B, C, H, W) and times (B,), 1 being noise alone -> the direction from picture to noise."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The same of a network that also takes labels (B,); its first C channels are the answer."""


def flow_loss(network: Network, picture: Tensor, label: Tensor) -> Tensor:
    """How far the network's velocity is from that of random noise, at times drawn logit-normally: ()."""
    time, noise = torch.randn(len(picture), device=picture.device).sigmoid(), torch.randn_like(picture)
    share = time.view(-1, 1, 1, 1)
    velocity = network((1 - share) * picture + share * noise, time, label)[:, : picture.shape[1]]
    return F.mse_loss(velocity, noise - picture)


def euler_steps(velocity: Velocity, noise: Tensor, steps: int) -> Iterator[Tensor]:
    """What becomes of the noise (B, C, H, W) after each of the steps; the last is the picture."""
    require_positive(steps=steps)
    picture = noise
    for step in range(steps, 0, -1):
        time = torch.full((len(noise),), step / steps, device=noise.device)
        picture = picture - velocity(picture, time) / steps
        yield picture


def guided(network: Network, label: Tensor, no_label: int, guidance: float) -> Velocity:
    """The velocity with a label, `guidance` times as far from that without as it is. Both are asked in one batch."""
    labels = torch.cat([label, torch.full_like(label, no_label)])

    def velocity(picture: Tensor, time: Tensor) -> Tensor:
        answers = network(torch.cat([picture, picture]), torch.cat([time, time]), labels)
        with_label, without = answers[:, : picture.shape[1]].chunk(2)
        return without + guidance * (with_label - without)

    return velocity


def labelled(model: DiTMoE, label: Tensor, guidance: float) -> Velocity:
    """The model's velocity with labels (B,), guided unless `guidance` is 1."""
    if guidance != 1:
        return guided(model, label, model.config.num_classes, guidance)
    return lambda picture, time: model(picture, time, label)[:, : picture.shape[1]]


def sample(model: DiTMoE, noise: Tensor, label: Tensor, *, steps: int = 50, guidance: float = 1.0) -> Tensor:
    """Latents (B, C, S, S) for labels (B,), from noise of their shape."""
    *_, picture = euler_steps(labelled(model, label, guidance), noise, steps)
    return picture


def guided_noise(model: DiTMoE, latent: Tensor, time: Tensor, label: Tensor, guidance: float) -> Tensor:
    """A prediction of noise (B, C', S, S) as DiT samples with: only its first three channels are guided."""
    labels = torch.cat([label, torch.full_like(label, model.config.num_classes)])
    with_label, without = model(torch.cat([latent, latent]), torch.cat([time, time]), labels).chunk(2)
    lead = without[:, :GUIDED_CHANNELS]
    return torch.cat(
        [lead + guidance * (with_label[:, :GUIDED_CHANNELS] - lead), with_label[:, GUIDED_CHANNELS:]], dim=1
    )


class UseOfNetwork(Procedure):
    """Base of what is done with the network of a config."""

    config: DiTMoEConfig

    def __init__(self, config: DiTMoEConfig) -> None:
        super().__init__(config)
        self.network = DiTMoE(config)


@register_part("dit_moe", "sample")
class Sample(UseOfNetwork):
    """latent (B, C, S, S), which is noise, and label (B,) -> what it is after the first step, and the prediction."""

    def forward(self, latent: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        velocity = labelled(self.network, label, self.config.guidance)
        first, *others = euler_steps(velocity, latent, self.config.steps)
        return {"prediction": [first, *others][-1], "step1": first}


@register_part("dit_moe", "cfg")
class GuidedNoise(UseOfNetwork):
    """latent (B, C, S, S), time (B,), label (B,) -> the guided prediction (B, C', S, S)."""

    def forward(self, latent: Tensor, time: Tensor, label: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        time = (time + 1) / 2 * self.config.time_scale
        return {"prediction": guided_noise(self.network, latent, time, label, self.config.guidance)}
