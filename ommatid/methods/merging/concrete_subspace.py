"""Concrete subspace learning: one mask for all tasks chooses the parameters in which their vectors do not disturb.

"Concrete Subspace Learning based Interference Elimination for Multi-task Model Fusion" (arXiv 2312.06173). The mask is
learned on images without labels: whatever makes the merged model sure of its answers is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ommatid.methods.merging.task_vectors import Parameters, TaskVectorProcedure, composed, parameters_of, task_vectors
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.ops.entropy import softmax_entropy

EPS, TINY = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
START = 0.3
"""The weight of every task vector before it is learned."""

Batch = Sequence[Tensor]
"""Images of every task, in the tasks' order."""


def concrete_mask(logits: Tensor, noise: Tensor, *, temperature: float = 0.5) -> Tensor:
    """A relaxed draw of 0 or 1 for each of the logits, with gradient: the same shape, above 0 and below 1.

    Args:
        noise: uniform between 0 and 1, of the logits' shape.
        temperature: the lower, the nearer to 0 or 1. For a mask of zeros and ones take 0.001, and what is above 0.5.
    """
    require_positive(temperature=float(temperature))
    odds = [share.clamp(EPS, 1 - EPS).logit() for share in (noise, logits.sigmoid())]
    return ((odds[0] + odds[1]) / temperature).sigmoid().clamp(TINY, 1 - EPS)


def masked(vectors: Parameters, masks: Parameters) -> Parameters:
    """Task vectors (T, ...) times one mask for all tasks, each rescaled so that a constant mask changes nothing."""
    return {name: vector * (masks[name] / masks[name].mean()) for name, vector in vectors.items()}


class ConcreteMerge(nn.Module):
    """Models of one architecture, their shared mask and the weight of each: merged anew for every draw of the mask.

    Args:
        model: what all of them were tuned from.
        tuned: T models, such as the encoders of T classifiers.
        granularity: a weight for each task, or for each task and parameter.
        temperature: of the mask.
    """

    def __init__(
        self,
        model: nn.Module,
        tuned: Sequence[nn.Module],
        *,
        granularity: Literal["task", "layer"] = "task",
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        self.base, self.task_vectors = parameters_of(model), task_vectors(model, tuned)
        self.temperature = temperature
        self.logits = nn.ParameterList(torch.zeros_like(value) for value in self.base.values())
        shape = (len(tuned),) if granularity == "task" else (len(tuned), len(self.base))
        self.weights = nn.Parameter(torch.full(shape, START, device=self.logits[0].device))

    def sample(self) -> Parameters:
        """A mask for each parameter."""
        return {
            name: concrete_mask(logits, torch.rand_like(logits), temperature=self.temperature)
            for name, logits in zip(self.base, self.logits, strict=True)
        }

    def forward(self, masks: Parameters | None = None) -> Parameters:
        """The merged parameters, with the mask given or a fresh one."""
        masks = self.sample() if masks is None else masks
        return composed(self.base, masked(self.task_vectors, masks), self.weights.clamp(0, 1))

    @torch.no_grad()
    def reset_weights(self) -> None:
        self.weights.fill_(START)


def entropy_loss(model: nn.Module, parameters: Parameters, heads: Sequence[nn.Module], images: Batch) -> Tensor:
    """How unsure the model with these parameters and each task's head are of its images, summed over tasks: ()."""
    answers = [head(functional_call(model, parameters, (image,))) for head, image in zip(heads, images, strict=True)]
    return torch.stack([softmax_entropy(answer).mean() for answer in answers]).sum()


def learn_mask(
    merge: ConcreteMerge,
    model: nn.Module,
    heads: Sequence[nn.Module],
    batches: Iterator[Batch],
    *,
    adapt_weights: bool,
    steps: int = 2000,
    learning_rate: float = 1e-3,
    weight_rate: float = 1.0,
) -> None:
    """Learns the mask of `merge`, in place, by the entropy of answers.

    Args:
        adapt_weights: before each step of the mask the weights start anew and make one of their own, as AdaMerging
            does with them; otherwise they stay as they are. That step's own derivative is neglected.
        batches: images without labels for each task, twice as many batches where weights are adapted.
    """
    masks = torch.optim.Adam(merge.logits.parameters(), lr=learning_rate)
    weights = torch.optim.Adam([merge.weights], lr=weight_rate)
    for _ in range(steps):
        if adapt_weights:
            merge.reset_weights()
            _step(weights, entropy_loss(model, merge(), heads, next(batches)))
        _step(masks, entropy_loss(model, merge(), heads, next(batches)))


def adapt_weights(
    merge: ConcreteMerge,
    model: nn.Module,
    heads: Sequence[nn.Module],
    batches: Iterator[Batch],
    *,
    steps: int = 1000,
    learning_rate: float = 1e-3,
) -> Parameters:
    """Adapts the weights of `merge`, in place, to images without labels, under one draw of the mask, returned."""
    merge.reset_weights()
    masks = {name: mask.detach() for name, mask in merge.sample().items()}
    optimizer = torch.optim.Adam([merge.weights], lr=learning_rate)
    for _ in range(steps):
        _step(optimizer, entropy_loss(model, merge(masks), heads, next(batches)))
    return masks


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@dataclass(frozen=True, kw_only=True)
class ConcreteConfig(PartConfig):
    """`scale` multiplies what stands for logits in the cases, which is drawn between -1 and 1."""

    function: Literal["sample", "merge", "entropy"] = "merge"
    temperature: float = 0.5
    scale: float = 1.0
    draw_sample: bool = True
    dims: tuple[int, ...] = (8, 12, 10)
    tasks: int = 2
    granularity: Literal["task", "layer"] = "layer"

    def check(self) -> None:
        require_positive(temperature=self.temperature, tasks=self.tasks, dims=self.dims)
        require(len(self.dims) == 3, "dims", self.dims, "three widths: of the input, between, of the output")


@register("concrete_subspace", ConcreteConfig)
class Merge(TaskVectorProcedure):
    """x (B, in), weight (T,) or (T, N), mask_NAME and noise_NAME of each parameter -> logits, and their entropy ()."""

    config: ConcreteConfig

    def __init__(self, config: ConcreteConfig) -> None:
        super().__init__(config, config.dims, config.tasks)

    def forward(self, x: Tensor, weight: Tensor, **given: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        base, config = parameters_of(self.model), self.config
        expected = (config.tasks, len(base))[: 1 + (config.granularity == "layer")]
        require(tuple(weight.shape) == expected, "weight", tuple(weight.shape), f"{expected} for this granularity")
        masks = {}
        for name in base:
            logits, noise = (given[f"{kind}_{name.replace('.', '_')}"] for kind in ("mask", "noise"))
            masks[name] = concrete_mask(config.scale * logits, (noise + 1) / 2, temperature=config.temperature)
        weights = (START + 0.5 * weight).clamp(0, 1)
        logits = self.answer(composed(base, masked(self.vectors(), masks), weights), x)
        return {"logits": logits, "loss": softmax_entropy(logits).mean()}


@register_part("concrete_subspace", "sample")
class Sample(Procedure):
    """logits, noise and vector of one shape -> the mask, the same as 0 or 1, and the vector masked."""

    config: ConcreteConfig

    def forward(self, logits: Tensor, noise: Tensor, vector: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        logits = self.config.scale * logits
        mask = logits.sigmoid()
        if self.config.draw_sample:
            mask = concrete_mask(logits, (noise + 1) / 2, temperature=self.config.temperature)
        return {
            "mask": mask,
            "binary": (mask > 0.5).to(mask.dtype),
            "masked": masked({"vector": vector}, {"vector": mask})["vector"],
        }


@register_part("concrete_subspace", "entropy")
class Entropy(Procedure):
    """x (B, K) -> loss (), the mean entropy of scale * x."""

    config: ConcreteConfig

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": softmax_entropy(self.config.scale * x).mean()}
