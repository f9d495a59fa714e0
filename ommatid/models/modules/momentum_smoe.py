"""MomentumSMoE: a stack of sparse mixtures of experts with momentum between its layers.

"MomentumSMoE: Integrating Momentum into Sparse Mixture of Experts" (arXiv 2410.14574).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.moe.balance import Choice, any_choice_balance
from ommatid.nn.moe.experts import StackedMLP
from ommatid.nn.moe.layer import MoE
from ommatid.nn.moe.momentum import (
    AdamStep,
    HeavyBallStep,
    Momentum,
    MomentumMoE,
    RobustStep,
    Step,
    at_rest,
    init_experts_kaiming_,
)
from ommatid.nn.moe.routers import TopKRouter
from ommatid.nn.moe.routing import balance_of, recorded_routings


@dataclass(frozen=True, kw_only=True)
class MomentumSMoEConfig(PartConfig):
    """`variant` "heavy_ball" reads `mu` and `gamma2`; "adam" those, `gamma1` and the betas; "robust" `k`, `p`, `L`.

    `outer_residual` adds a layer's input once more, and norms the sum.
    """

    variant: Literal["none", "heavy_ball", "adam", "robust"] = "heavy_ball"
    dim: int = 352
    hidden_dim: int = 352
    num_experts: int = 16
    top_k: int = 2
    depth: int = 6
    pre_norm: bool = False
    outer_residual: bool = True
    mu: float = 0.7
    gamma1: float = 1.0
    gamma2: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.999
    k: float = 2.0
    p: float = 0.4
    L: float = 1.0

    def check(self) -> None:
        require_positive(dim=self.dim, hidden_dim=self.hidden_dim, depth=self.depth, L=self.L)
        possible = 1 <= self.top_k <= self.num_experts
        require(possible, "top_k", self.top_k, f"from 1 to the number of experts ({self.num_experts})")
        require(self.k > 1, "k", self.k, "above 1")
        require(0 <= self.p < 1, "p", self.p, "from 0 up to, not including, 1")

    def step(self, layer: int) -> Step:
        """Adam is for the first layer alone; behind it a heavy ball rolls on."""
        if self.variant == "none":
            return Step()
        if self.variant == "robust":
            return RobustStep(self.k, self.p, self.L)
        if self.variant == "adam" and layer == 0:
            return AdamStep(self.mu, self.gamma2, rate=self.gamma1, betas=(self.beta1, self.beta2))
        return HeavyBallStep(self.mu, self.gamma2)


@register("momentum_smoe", MomentumSMoEConfig)
class MomentumSMoE(Model):
    """tokens (B, N, C) -> `layerI`, what is behind each layer, and `momentum` behind the last; with "adam" `p`, `v`."""

    config: MomentumSMoEConfig

    def __init__(self, config: MomentumSMoEConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(
            MomentumMoE(config.dim, mixture(config), config.step(layer), pre_norm=config.pre_norm)
            for layer in range(config.depth)
        )
        norms = range(config.depth if config.outer_residual else 0)
        self.norms = nn.ModuleList(nn.LayerNorm(config.dim) for _ in norms)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        state, outputs = at_rest(tokens), {}
        for index, layer in enumerate(self.layers):
            stepped, state = layer(tokens, state)
            tokens = self.norms[index](tokens + stepped) if self.norms else stepped
            outputs[f"layer{index}"] = tokens
        return outputs | self.named(state)

    def named(self, state: Momentum) -> dict[str, Tensor]:
        momentum = {"momentum": state.velocity}
        return momentum | ({"p": state.mean, "v": state.square} if self.config.variant == "adam" else {})


def mixture(config: MomentumSMoEConfig) -> MoE:
    """No capacity: every chosen pair is worked on. With one expert per token its weight is 1."""
    router = TopKRouter(
        nn.Linear(config.dim, config.num_experts),
        config.num_experts,
        config.top_k,
        normalize=True,
        balance=per_choice_balance,
    )
    experts = StackedMLP(config.num_experts, config.dim, config.hidden_dim, act=nn.ReLU())
    for layer in (experts.fc1, experts.fc2):
        init_experts_kaiming_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return MoE(router, experts)


def per_choice_balance(choice: Choice) -> Tensor:
    """The balance of all choices, with probabilities over k as the reference has them: 1 / k where all are alike."""
    return any_choice_balance(choice) / choice.experts.shape[1]


REFERENCE_NAMES = [
    (r"\.smoe\.gate\.gate\.", ".moe.router.logits."),
    (r"\.smoe\.experts\.htoh4\.", ".moe.experts.fc1."),
    (r"\.smoe\.experts\.h4toh\.", ".moe.experts.fc2."),
    (r"\.smoe\.layer_norm\.", ".norm."),
    (r"^layers\.(\d+)\.norm2\.", r"norms.\1."),
]


def reference_outputs(model: MomentumSMoE, tokens: Tensor) -> dict[str, Tensor]:
    with recorded_routings(model) as routings:
        outputs = model(tokens)
    return outputs | {"balance_loss": balance_of(routings).view(1)}
