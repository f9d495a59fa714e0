"""Dense-to-sparse experts: the gate with temperature and activation, a layer of them, and the Gaussian mixture.

"Is Temperature Sample Efficient for Softmax Gaussian Mixture of Experts?" (arXiv 2401.13875), after "Dense-to-Sparse
Gate for Mixture-of-Experts" (arXiv 2112.14397).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import stack_experts
from ommatid.models.registry import register, register_part
from ommatid.nn.moe.experts import StackedMLP
from ommatid.nn.moe.layer import MoE
from ommatid.nn.moe.temperature import ActivatedLinear, Activation, TemperatureRouter, cooled


@dataclass(frozen=True, kw_only=True)
class TemperatureMoEConfig(PartConfig):
    """`function` "gate" and "density" read `tau`; "layer" takes the temperature at `step` of `total_steps`.

    "density" is a mixture of Gaussians of a number y given x; its variances start at exp(`log_variance_scale` * b).
    """

    function: Literal["gate", "layer", "density"] = "layer"
    dim: int = 384
    hidden_dim: int = 1536
    num_experts: int = 8
    activation: Activation = "sigmoid"
    bias_inside: bool = False
    tau: float = 1.0
    tau_start: float = 2.0
    tau_end: float = 0.3
    step: int = 0
    total_steps: int = 100
    threshold: float = 0.1
    renormalise: bool = False
    log_variance_scale: float = 1.0

    def check(self) -> None:
        require_positive(dim=self.dim, hidden_dim=self.hidden_dim, num_experts=self.num_experts)
        require_positive(tau=self.tau, tau_start=self.tau_start, tau_end=self.tau_end, total_steps=self.total_steps)
        require(0 <= self.threshold <= 1, "threshold", self.threshold, "from 0 to 1")

    @property
    def temperature(self) -> float:
        """Of the function."""
        scheduled = cooled(self.tau_start, self.tau_end, self.step, self.total_steps)
        return scheduled if self.function == "layer" else self.tau

    def gate(self) -> ActivatedLinear:
        return ActivatedLinear(self.dim, self.num_experts, self.activation, bias_inside=self.bias_inside)

    def router(self) -> TemperatureRouter:
        return TemperatureRouter(
            self.gate(),
            self.num_experts,
            temperature=self.temperature,
            threshold=self.threshold,
            renormalize=self.renormalise,
        )


@register("temperature_moe", TemperatureMoEConfig)
class TemperatureMoELayer(Model):
    """tokens (..., C) -> features (..., C), the weights (..., E), and how many of them are not 0, `active` (...)."""

    config: TemperatureMoEConfig

    def __init__(self, config: TemperatureMoEConfig) -> None:
        super().__init__(config)
        self.moe = MoE(config.router(), StackedMLP(config.num_experts, config.dim, config.hidden_dim))

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        features, routing = self.moe.mix(tokens)
        weights = routing.weights.unflatten(0, tokens.shape[:-1])
        return {"features": features, "weights": weights, "active": (weights > 0).sum(-1).float()}


@register_part("temperature_moe", "gate")
class TemperatureGate(Model):
    """tokens (..., C) -> probabilities `weights` (..., E), `sparse_weights`, and how many of these are not 0."""

    config: TemperatureMoEConfig

    def __init__(self, config: TemperatureMoEConfig) -> None:
        super().__init__(config)
        self.router = config.router()

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        routing = self.router(tokens.flatten(0, -2))
        weights, scores = (values.unflatten(0, tokens.shape[:-1]) for values in (routing.weights, routing.scores))
        return {"weights": scores, "sparse_weights": weights, "active": (weights > 0).sum(-1).float()}


@register_part("temperature_moe", "density")
class GaussianMixture(Model):
    """x (n, C) and y (n,) -> log density of y given x (n,), the experts' posterior and prior `weights`, both (n, E).

    Expert i is a regression, N(a_i x + c_i, v_i). Trained by the mean of -log_density.
    """

    config: TemperatureMoEConfig

    def __init__(self, config: TemperatureMoEConfig) -> None:
        super().__init__(config)
        self.gate = config.gate()
        self.mean = nn.Linear(config.dim, config.num_experts)
        self.log_variance = nn.Parameter(torch.zeros(config.num_experts))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        log_prior = (self.gate(x) / self.config.temperature).log_softmax(-1)
        log_variance = self.config.log_variance_scale * self.log_variance
        distance = (y[:, None] - self.mean(x)).square() / log_variance.exp()
        joint = log_prior - (distance + log_variance + math.log(2 * math.pi)) / 2
        return {"log_density": joint.logsumexp(-1), "posterior": joint.softmax(-1), "weights": log_prior.exp()}


GATE_NAMES = {"TemperatureGate": "router.logits.", "TemperatureMoELayer": "moe.router.logits."}


def convert_reference(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Experts are stored one by one; the gate lies deeper here, but for the mixture."""
    gate = GATE_NAMES.get(type(model).__name__, "gate.")
    deeper = {name.replace("gate.", gate, 1): value for name, value in stack_experts(state).items()}
    return {name.replace("experts.", "moe.experts."): value for name, value in deeper.items()}


REFERENCE_NAMES = [(r"^log_variance_bias$", "log_variance")]


def reference_outputs(model: Model, **inputs: Tensor) -> dict[str, Tensor]:
    """What is of the whole batch, or of no token at all."""
    outputs = model(**inputs)
    if isinstance(model, GaussianMixture):
        return outputs | {"negative_log_likelihood": -outputs["log_density"].mean().view(1)}
    if isinstance(model, TemperatureMoELayer):
        return outputs | {"tau": torch.tensor([model.config.temperature])}
    return outputs
