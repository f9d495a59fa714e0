"""The layer of Tutel: expert capacity by rank and by priority, linear or cosine routing, and its two balance losses.

"Tutel: Adaptive Mixture-of-Experts at Scale" (arXiv 2206.03382).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from ommatid.nn.moe.balance import Balance, first_choice_balance, load_importance_balance
from ommatid.nn.moe.dispatch import Capacity, Dropless
from ommatid.nn.moe.experts import StackedMLP
from ommatid.nn.moe.layer import MoE
from ommatid.nn.moe.logits import CosineLogits
from ommatid.nn.moe.routers import TopKRouter
from ommatid.nn.moe.routing import Dispatch

RouterKind = Literal["linear", "cosine"]
BalanceKind = Literal["gshard", "load_importance"]


def tutel_moe(
    dim: int,
    hidden: int,
    *,
    num_experts: int,
    top_k: int = 1,
    router: RouterKind = "linear",
    cosine_router_dim: int = 256,
    normalize_gate: bool = True,
    gate_noise: float = 0.0,
    balance_loss: BalanceKind = "gshard",
    capacity_factor: float = 1.0,
    batch_prioritized_routing: bool = False,
    alignment: int = 1,
    out_dim: int | None = None,
    act: nn.Module | None = None,
    expert_bias: bool = True,
    is_postscore: bool = True,
) -> MoE:
    """The whole layer, by the names of its paper: (..., C) -> (..., out_dim).

    Args:
        dim: C.
        hidden: width inside an expert.
        num_experts, top_k: E and k; of fewer than k experts, each token gets all.
        router, cosine_router_dim: what logits are made of.
        normalize_gate: weights of a token are divided by their sum, for k > 1.
        gate_noise: in training, N(0, (gate_noise / E)^2) is added to the logits.
        balance_loss: "load_importance" needs gate noise.
        capacity_factor, batch_prioritized_routing, alignment: as in `capacity_dispatch`.
        out_dim, act, expert_bias: of the experts' two layers.
        is_postscore: weights multiply what comes out of the experts, else what goes in.
    """
    cosine = router == "cosine"
    logits = (
        CosineLogits(dim, num_experts, inner_dim=cosine_router_dim)
        if cosine
        else nn.Linear(dim, num_experts, bias=False)
    )
    return MoE(
        tutel_router(
            logits,
            num_experts,
            top_k,
            normalize_gate=normalize_gate,
            gate_noise=gate_noise,
            balance_loss=balance_loss,
        ),
        StackedMLP(num_experts, dim, hidden, out_dim=out_dim, act=act or nn.ReLU(), bias=expert_bias),
        dispatch=capacity_dispatch(capacity_factor, prioritized=batch_prioritized_routing, alignment=alignment),
        weigh_input=not is_postscore,
    )


def tutel_router(
    logits: nn.Module,
    num_experts: int,
    top_k: int,
    *,
    normalize_gate: bool,
    gate_noise: float,
    balance_loss: BalanceKind,
) -> TopKRouter:
    """The router of `tutel_moe` around any logits (S, C) -> (S, E)."""
    top_k = min(top_k, num_experts)
    return TopKRouter(
        logits,
        num_experts,
        top_k,
        normalize=normalize_gate and top_k > 1,
        noise=gate_noise,
        balance=balance_of_kind(balance_loss, gate_noise),
    )


def balance_of_kind(kind: BalanceKind, gate_noise: float) -> Balance:
    return first_choice_balance if kind == "gshard" else load_importance_balance(gate_noise)


def capacity_dispatch(factor: float, *, prioritized: bool, alignment: int) -> Dispatch:
    """`Capacity`, with a factor of 0 for none: experts take all that comes.

    A negative one stands for the busiest expert's load where that is less than the capacity, which drops the same.
    """
    return Capacity(abs(factor), prioritized=prioritized, alignment=alignment) if factor else Dropless()
