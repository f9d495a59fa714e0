"""aTLAS: a learned coefficient for every parameter tensor of every task vector.

"Knowledge Composition using Task Vectors with Learned Anisotropic Scaling" (arXiv 2407.02880). `Composition` is trained
by any optimiser: only its coefficients learn. Afterwards `folded()` is an ordinary model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ommatid.methods.merging.task_vectors import (
    Parameters,
    TaskVectorProcedure,
    added,
    parameters_of,
    plus,
    task_vectors,
    with_parameters,
)
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part

Partition = dict[tuple[int, ...], Tensor]
"""For each shape of a matrix the part, from 0, that every entry belongs to."""


def random_partition(parameters: Parameters, parts: int, *, seed: int = 0) -> Partition:
    """The entries of all matrices dealt to parts at random; matrices of one shape are dealt alike."""
    require_positive(parts=parts)
    generator = torch.Generator().manual_seed(seed)
    shapes = {tuple(value.shape): value.device for value in parameters.values() if value.dim() == 2}
    return {shape: torch.randint(parts, shape, generator=generator).to(device) for shape, device in shapes.items()}


def added_in_parts(vectors: Parameters, coefficients: Tensor, partition: Partition) -> Parameters:
    """What a sum of task vectors adds where each part of a matrix has a coefficient of its own.

    Only matrices change: vectors and kernels of convolutions stay, as in the reference.

    Args:
        vectors: (T, ...) by name. coefficients: (T, N, K), in the parameters' order.
    """
    change = {}
    for (name, vector), of_parts in zip(vectors.items(), coefficients.unbind(1), strict=True):
        if vector.dim() == 3:
            change[name] = (of_parts[:, partition[tuple(vector.shape[1:])]] * vector).sum(0)
        else:
            change[name] = torch.zeros_like(vector[0])
    return change


def linearised(model: nn.Module, base: Parameters, change: Parameters, *inputs: Tensor) -> Tensor:
    """The model's answer with parameters `base`, plus its derivative in the direction of the change."""
    answered = jvp(lambda parameters: functional_call(model, parameters, inputs), (base,), (change,))
    return answered[0] + answered[1]


class Composition(nn.Module):
    """A model plus a learned sum of task vectors, at first the model itself.

    Args:
        model: what all were tuned from. Its answers are this module's.
        tuned: T models of its architecture.
        scaling: a coefficient for each task, for each task and parameter tensor, or for every part of each as well.
        parts: K, with `partition`.
        linear: replaces the model by its tangent at the original parameters. No `folded` model is the same.
    """

    def __init__(
        self,
        model: nn.Module,
        tuned: Sequence[nn.Module],
        *,
        scaling: Literal["isotropic", "blockwise", "partition"] = "blockwise",
        parts: int = 10,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.vectors = task_vectors(model, tuned)
        self.linear = linear
        self.partition = random_partition(parameters_of(model), parts) if scaling == "partition" else None
        shape = {"isotropic": (), "blockwise": (len(self.vectors),), "partition": (len(self.vectors), parts)}[scaling]
        device = next(iter(self.vectors.values())).device
        self.coefficients = nn.Parameter(torch.zeros(len(tuned), *shape, device=device))

    def change(self) -> Parameters:
        """What is added to the model's parameters."""
        if self.partition is None:
            return added(self.vectors, self.coefficients)
        return added_in_parts(self.vectors, self.coefficients, self.partition)

    def forward(self, *inputs: Tensor) -> Tensor:
        base = parameters_of(self.model)
        if self.linear:
            return linearised(self.model, base, self.change(), *inputs)
        return functional_call(self.model, plus(base, self.change()), inputs)

    def folded(self) -> nn.Module:
        """A copy of the model with the sum in its parameters."""
        return with_parameters(self.model, plus(parameters_of(self.model), self.change()))


def addition_loss(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """To learn several tasks: the cross-entropy of each task's batch, added up: ()."""
    return torch.stack([F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]).sum()


def negation_loss(target: Tensor, target_label: Tensor, control: Tensor, control_label: Tensor) -> Tensor:
    """To forget the target's task and keep the control's, from logits (B, K) and labels (B,) of both: ()."""
    return F.cross_entropy(control, control_label) - F.cross_entropy(target, target_label)


def best_negation(target: Tensor, control: Tensor, control_before: float, *, keep: float = 0.95) -> int:
    """Which of n accuracies on the target (n,) is least while the control's (n,) keeps this share of what it was.

    Raises:
        ValueError: none keeps it.
    """
    allowed = control >= keep * control_before
    require(bool(allowed.any()), "control", control.tolist(), f"one of {keep * control_before:.3g} or more")
    return int(torch.where(allowed, target, torch.inf).argmin())


def coefficient_penalty(coefficients: Tensor, *, p: int = 1) -> Tensor:
    """Half the mean over parameters of the coefficients' norm over tasks: (T, N) -> ()."""
    require(p in (1, 2), "p", p, "1 or 2")
    return coefficients.norm(p, dim=0).mean() / 2


def consistency_loss(
    weak: Tensor, strong: Tensor, *, threshold: float = 0.99, trusted: int = 0, label: Tensor | None = None
) -> Tensor:
    """Learning without labels: logits (B, K) of a strong view are taught what those of a weak one say: ().

    FixMatch (arXiv 2001.07685) with soft targets. Samples of which the weak view is not sure do not count; where none
    is left it is 0.

    Args:
        threshold: of the largest probability.
        trusted: how many samples, the first ones, have a class given, so that they always count.
        label: their classes, (trusted,) or more.
    """
    target = weak.detach().softmax(-1)
    if trusted:
        require(label is not None and len(label) >= trusted, "label", label, f"classes of {trusted} samples")
        assert label is not None
        given = F.one_hot(label[:trusted], weak.shape[-1]).to(target)
        target = torch.cat([given, target[trusted:]])
    keep = (target.amax(-1) > threshold).to(strong)
    return (keep * F.cross_entropy(strong, target, reduction="none")).sum() / keep.sum().clamp(min=1)


def trusted_samples(logits: Tensor, per_class: int) -> Tensor:
    """The samples (n,) with the surest logits (N, K), up to `per_class` of each class that they say, by class."""
    require_positive(per_class=per_class)
    confidence, prediction = logits.softmax(-1).max(-1)
    order = confidence.argsort(descending=True)
    by_class = [order[prediction[order] == label][:per_class] for label in range(logits.shape[-1])]
    return torch.cat(by_class)


def half_trusted_batches(
    trusted: Tensor, others: Tensor, batch: int, *, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """One epoch of the other samples, each batch (batch,) with as many trusted ones in front, drawn at random."""
    require(batch > 0 and batch % 2 == 0, "batch", batch, "a positive even number")
    order = others[torch.randperm(len(others), generator=generator)]
    for part in order.split(batch // 2):
        if 2 * len(part) == batch:
            yield torch.cat([trusted[torch.randint(len(trusted), (len(part),), generator=generator)], part])


@dataclass(frozen=True, kw_only=True)
class AtlasConfig(PartConfig):
    """`compose` and `linearised` read the first four; without `partition` there are no parts."""

    function: Literal["compose", "linearised", "ufm", "regulariser"] = "compose"
    dims: tuple[int, ...] = (8, 12, 10)
    tasks: int = 2
    blockwise: bool = True
    partition: int | None = None
    trusted: int = 0
    threshold: float = 0.99
    scale: float = 1.0
    p: int = 1

    def check(self) -> None:
        require_positive(dims=self.dims, tasks=self.tasks, partition=1 if self.partition is None else self.partition)
        require(len(self.dims) == 3, "dims", self.dims, "three widths: of the input, between, of the output")
        require(self.p in (1, 2), "p", self.p, "1 or 2")
        require(self.trusted >= 0, "trusted", self.trusted, "0 or more")


class CompositionProcedure(TaskVectorProcedure):
    """Base of what adds task vectors to the network of the cases."""

    config: AtlasConfig

    def __init__(self, config: AtlasConfig) -> None:
        super().__init__(config, config.dims, config.tasks)

    def change(self, coef: Tensor, maps: dict[str, Tensor]) -> Parameters:
        vectors, config = self.vectors(), self.config
        expected = [config.tasks, len(vectors), config.partition]
        axes = 3 if config.partition else 1 + config.blockwise
        require([*coef.shape] == expected[:axes], "coef", tuple(coef.shape), f"{expected[:axes]}, as configured")
        if config.partition is None:
            return added(vectors, coef)
        return added_in_parts(vectors, coef, {tuple(chosen.shape): chosen for chosen in maps.values()})


@register("atlas", AtlasConfig)
class Compose(CompositionProcedure):
    """x (B, in), coef, perhaps partition_RxC (R, C) for every matrix's shape -> logits (B, out)."""

    def forward(self, x: Tensor, coef: Tensor, **maps: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": self.answer(plus(parameters_of(self.model), self.change(coef, maps)), x)}


@register_part("atlas", "linearised")
class Linearised(CompositionProcedure):
    """The same of the network's tangent."""

    def forward(self, x: Tensor, coef: Tensor, **maps: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": linearised(self.model, parameters_of(self.model), self.change(coef, maps), x)}


@register_part("atlas", "ufm")
class UFM(Procedure):
    """weak and strong (B, K), label (B,) -> loss ()."""

    config: AtlasConfig

    def forward(self, weak: Tensor, strong: Tensor, label: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        views = config.scale * weak, config.scale * strong
        return {"loss": consistency_loss(*views, threshold=config.threshold, trusted=config.trusted, label=label)}


@register_part("atlas", "regulariser")
class Regulariser(Procedure):
    """coef (T, N) -> loss ()."""

    config: AtlasConfig

    def forward(self, coef: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"loss": coefficient_penalty(coef, p=self.config.p)}
