"""DeepSpeed-MoE: the gates of GShard and Switch Transformer with random priority, and the residual layer of experts.

"DeepSpeed-MoE: Advancing Mixture-of-Experts Inference and Training to Power Next-Generation AI Scale" (arXiv
2201.05596).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.procedure import Procedure
from ommatid.models.reference import rename, stack_experts
from ommatid.models.registry import register, register_part
from ommatid.nn.feedforward import MLP
from ommatid.nn.moe.compositions import ResidualMoE
from ommatid.nn.moe.experts import stack
from ommatid.nn.moe.gshard import (
    DropPolicy,
    GShardCapacity,
    GShardRouter,
    NoisyPolicy,
    choose,
    gshard_priority,
    kept_locations,
)
from ommatid.nn.moe.layer import MoE
from ommatid.nn.moe.mixing import combine_tensor, mix_sorted


@dataclass(frozen=True, kw_only=True)
class DeepSpeedMoEConfig(PartConfig):
    """`function` "top1", "top2" and "topk" are the gates by themselves, on `logit_scale` times what they are given.

    In the layer, `capacity_factor` holds in training and after it.
    """

    function: Literal["top1", "top2", "topk", "moe_layer"] = "moe_layer"
    num_experts: int = 8
    top_k: int = 1
    capacity_factor: float = 1.0
    min_capacity: int = 4
    drop_tokens: bool = True
    noisy_gate_policy: NoisyPolicy = None
    random_token_priority: bool = True
    second_expert_sampling: bool = False
    drop_policy: DropPolicy = "probs"
    use_mask: bool = False
    logit_scale: float = 1.0
    dim: int = 384
    hidden_dim: int = 1536
    residual: bool = False

    def check(self) -> None:
        require_positive(num_experts=self.num_experts, dim=self.dim, hidden_dim=self.hidden_dim)
        possible = 1 <= self.top_k <= self.num_experts
        require(possible, "top_k", self.top_k, f"from 1 to the number of experts ({self.num_experts})")
        require(self.capacity_factor > 0, "capacity_factor", self.capacity_factor, "above 0")
        require(self.min_capacity >= 0, "min_capacity", self.min_capacity, "0 or more")

    def chosen(self) -> int:
        """k of the function."""
        return {"top1": 1, "top2": 2}.get(self.function, self.top_k)

    def dispatch(self) -> GShardCapacity:
        return GShardCapacity(
            self.capacity_factor,
            min_capacity=self.min_capacity,
            drop=self.drop_tokens,
            priority=gshard_priority(
                self.chosen(),
                random_token_priority=self.random_token_priority,
                drop_policy=self.drop_policy,
            ),
        )


@register("deepspeed_moe", DeepSpeedMoEConfig)
class DeepSpeedMoELayer(Model):
    """tokens (..., C) -> features (..., C), l_aux (1,), and exp_counts (E,), the load of the experts before drops.

    `uniform` and `gumbel`, (S, E), take the place of random numbers: uniform ones, given as from -1 to 1, for who is
    dropped, and Gumbel ones for the second expert.
    """

    config: DeepSpeedMoEConfig
    batch_dependent = True

    def __init__(self, config: DeepSpeedMoEConfig) -> None:
        super().__init__(config)
        first = MLP(config.dim, config.hidden_dim)
        moe = MoE(
            GShardRouter(
                config.dim,
                config.num_experts,
                config.top_k,
                noisy_policy=config.noisy_gate_policy,
                sample_second=config.second_expert_sampling,
            ),
            stack(first, config.num_experts),
            dispatch=config.dispatch(),
        )
        self.layer = ResidualMoE(config.dim, moe, first) if config.residual else moe

    def forward(self, tokens: Tensor, uniform: Tensor | None = None, gumbel: Tensor | None = None) -> dict[str, Tensor]:
        flat = tokens.flatten(0, -2)
        layer = self.layer
        moe = layer.moe if isinstance(layer, ResidualMoE) else layer
        chosen = moe.router(flat, *([] if gumbel is None else [gumbel]))
        routing = moe.dispatch(chosen, None if uniform is None else (uniform + 1) / 2)
        features = mix_sorted(flat, routing, moe.experts).view_as(tokens)
        return {
            "features": layer.blend(tokens, features) if isinstance(layer, ResidualMoE) else features,
            "l_aux": routing.balance.view(1),
            "exp_counts": chosen.load().float(),
        }


@register_part("deepspeed_moe", "top1")
@register_part("deepspeed_moe", "top2")
@register_part("deepspeed_moe", "topk")
class DeepSpeedGate(Procedure):
    """logits (S, E), and stand-ins for random numbers, -> the combine tensor (S, E, capacity) and what led to it."""

    config: DeepSpeedMoEConfig

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        config = self.config
        samples = config.noisy_gate_policy == "RSample" if config.function == "top1" else config.second_expert_sampling
        chosen = choose(
            inputs["logits"] * config.logit_scale,
            config.chosen(),
            gumbel=inputs["gumbel"] if samples else None,
            used=inputs["used"] > 0 if config.use_mask else None,
        )
        dispatch = config.dispatch()
        uniform = (inputs["uniform"] + 1) / 2 if "uniform" in inputs else None
        routing, places = dispatch(chosen, uniform), dispatch.places(chosen)
        return {
            "l_aux": routing.balance.view(1),
            "combine": combine_tensor(routing, places=places, location=kept_locations(routing)),
            "exp_counts": chosen.load().float(),
            "capacity": torch.tensor([float(places)]),
        }


REFERENCE_NAMES = [
    (r"^(mlp|coefficient)\.", r"layer.\1."),
    (r"^deepspeed_moe\.gate\.wg\.", "layer.moe.router.logits."),
    (r"^deepspeed_moe\.experts\.", "layer.moe.experts."),
]


def convert_reference(state: dict[str, Tensor], model: DeepSpeedMoELayer | DeepSpeedGate) -> dict[str, Tensor]:
    """Experts are stored one by one, and a residual layer holds the mixture as a part."""
    stacked = stack_experts({name.replace("deepspeed_experts.", ""): value for name, value in state.items()})
    if not model.config.residual:
        return {rename(name, REFERENCE_NAMES).replace(".moe.", "."): value for name, value in stacked.items()}
    return stacked
