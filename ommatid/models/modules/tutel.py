"""Tutel's layer of experts, and its routing by itself.

"Tutel: Adaptive Mixture-of-Experts at Scale" (arXiv 2206.03382).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.names import TUTEL_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.reference import changed
from ommatid.models.registry import register, register_part
from ommatid.nn.moe.dispatch import aligned, capacity, locations, priority
from ommatid.nn.moe.mixing import combine_tensor
from ommatid.nn.moe.routing import Routing
from ommatid.nn.moe.tutel import BalanceKind, RouterKind, tutel_moe, tutel_router


@dataclass(frozen=True, kw_only=True)
class TutelConfig(PartConfig):
    """`function` "route" reads what is about routing, and `logit_scale`; "moe_layer" all but that.

    A `capacity_factor` of 0 drops nothing; a negative one stands for at most the load of the busiest expert.
    """

    function: Literal["route", "moe_layer"] = "moe_layer"
    num_experts: int = 8
    top_k: int = 1
    capacity_factor: float = 1.0
    batch_prioritized_routing: bool = False
    normalize_gate: bool = True
    balance_loss: BalanceKind = "gshard"
    gate_noise: float = 0.0
    alignment: int = 1
    logit_scale: float = 1.0
    dim: int = 384
    hidden_dim: int = 1536
    out_dim: int | None = None
    router: RouterKind = "linear"
    cosine_router_dim: int = 256
    act: Literal["relu", "gelu"] = "relu"
    expert_bias: bool = True
    is_postscore: bool = True

    def check(self) -> None:
        require_positive(num_experts=self.num_experts, top_k=self.top_k, alignment=self.alignment)
        require_positive(dim=self.dim, hidden_dim=self.hidden_dim, cosine_router_dim=self.cosine_router_dim)
        require(self.gate_noise >= 0, "gate_noise", self.gate_noise, "0 (none) or more")
        enough = self.gate_noise > 0 or self.balance_loss != "load_importance"
        require(enough, "gate_noise", self.gate_noise, "above 0 where balance_loss is 'load_importance'")


@register("tutel", TutelConfig)
class TutelLayer(Model):
    """tokens (..., C) -> features (..., out_dim), and l_aux (1,), the balance loss without a weight."""

    config: TutelConfig
    batch_dependent = True

    def __init__(self, config: TutelConfig) -> None:
        super().__init__(config)
        self.moe = tutel_moe(
            config.dim,
            config.hidden_dim,
            num_experts=config.num_experts,
            top_k=config.top_k,
            router=config.router,
            cosine_router_dim=config.cosine_router_dim,
            normalize_gate=config.normalize_gate,
            gate_noise=config.gate_noise,
            balance_loss=config.balance_loss,
            capacity_factor=config.capacity_factor,
            batch_prioritized_routing=config.batch_prioritized_routing,
            alignment=config.alignment,
            out_dim=config.out_dim,
            act=nn.ReLU() if config.act == "relu" else nn.GELU(),
            expert_bias=config.expert_bias,
            is_postscore=config.is_postscore,
        )

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        features, routing = self.moe.mix(tokens)
        return {"features": features, "l_aux": routing.balance.view(1)}


@register_part("tutel", "route")
class TutelRoute(Procedure):
    """logits and noise (S, E), tokens (S, C) -> what is decided for each token, and where tokens go and come from.

    As a stand-in for experts, the e-th multiplies by 1 + e.
    """

    config: TutelConfig

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        config, tokens = self.config, inputs["tokens"]
        logits = inputs["logits"] * config.logit_scale
        noisy = logits + inputs["noise"] * (config.gate_noise / config.num_experts)
        router = tutel_router(
            nn.Identity(),
            config.num_experts,
            config.top_k,
            normalize_gate=config.normalize_gate,
            gate_noise=config.gate_noise,
            balance_loss=config.balance_loss,
        )
        routing = router.route(logits, noisy)
        order = priority(routing.scores) if config.batch_prioritized_routing else None
        location = locations(routing.experts, config.num_experts, order)
        places = self.places(routing, len(tokens))
        routing = routing._replace(kept=location < places)
        combine = combine_tensor(routing, places=places, location=location)
        ones = routing._replace(weights=torch.ones_like(routing.weights))
        dispatched = torch.einsum("sep,sc->epc", combine_tensor(ones, places=places, location=location), tokens)
        factors = torch.arange(1, config.num_experts + 1, dtype=tokens.dtype)
        return {
            "expert_index": routing.experts.float(),
            "location": location.float(),
            "gates": routing.weights,
            "capacity": torch.tensor([float(places)]),
            "combine": combine,
            "dispatched": dispatched,
            "decoded": torch.einsum("sep,epc,e->sc", combine, dispatched, factors),
            "l_aux": routing.balance.view(1),
        }

    def places(self, routing: Routing, tokens: int) -> int:
        """The rows of each expert's buffer."""
        config, k = self.config, routing.experts.shape[1]
        busiest = int(routing.load().max())
        fixed = capacity(tokens, config.num_experts, k, abs(config.capacity_factor))
        factor = config.capacity_factor
        return aligned(fixed if factor > 0 else busiest if factor == 0 else min(busiest, fixed), config.alignment)


REFERENCE_NAMES = [
    *TUTEL_NAMES,
    (r"^", "moe."),
]

REFERENCE_IGNORED = [r"_num_global_experts$"]


def convert_reference(state: dict[str, Tensor], model: Model) -> dict[str, Tensor]:
    """Second layers are stored with their inputs first."""
    return changed(state, r"batched_fc2_w$", lambda weight: weight.transpose(1, 2))
