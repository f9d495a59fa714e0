"""Mixture of experts: a channel mixer of many, of which each token uses a few."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ommatid.nn.moe.dispatch import Capacity, Dropless
from ommatid.nn.moe.experts import StackedMLP
from ommatid.nn.moe.mixing import mix_sorted
from ommatid.nn.moe.routers import ExpertChoiceRouter, cosine_router, linear_router, sigmoid_router
from ommatid.nn.moe.routing import Dispatch, Router, Routing


class MoE(nn.Module):
    """Router, dispatch and experts, as one channel mixer: (..., C) -> (..., C_out).

    Cost: that of the router, and of one expert k times per token.

    Args:
        router: tokens (S, C) -> `Routing`.
        experts: rows (R, C) sorted by expert and where each expert's end -> (R, C_out).
        dispatch: which of the chosen pairs are worked on; all of them where None.
        weigh_input: weights multiply what goes into the experts, not what comes out.
    """

    def __init__(
        self,
        router: Router,
        experts: nn.Module,
        *,
        dispatch: Dispatch | None = None,
        weigh_input: bool = False,
    ) -> None:
        super().__init__()
        self.router = router
        self.dispatch = dispatch or Dropless()
        self.experts = experts
        self.weigh_input = weigh_input
        self.scale: Tensor | None
        self.register_buffer("scale", None, persistent=False)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        mixed = self.mix(x, *context)[0]
        return mixed if self.scale is None else mixed * self.scale

    def scale_output_(self, scale: Tensor) -> None:
        self.scale = scale if self.scale is None else self.scale * scale

    def mix(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Routing]:
        """What `forward` gives, and what was decided on the way. `context` goes to the router."""
        tokens = x.flatten(0, -2)
        routing = self.dispatch(self.router(tokens, *context))
        mixed = mix_sorted(tokens, routing, self.experts, weigh_input=self.weigh_input)
        return mixed.unflatten(0, x.shape[:-1]), routing


class MapMoE(MoE):
    """As `MoE`, where whole maps choose experts, by the mean of their tokens: (B, H, W, C) -> (B, H, W, C_out).

    For channel mixers that look at neighbours; `experts` takes rows that are maps, (R, H, W, C).
    """

    def mix(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Routing]:
        routing = self.dispatch(self.router(x.mean((1, 2)), *context))
        return mix_sorted(x, routing, self.experts, weigh_input=self.weigh_input), routing


def mixture_of_mlps(
    dim: int,
    hidden: int,
    *,
    experts: int = 8,
    top_k: int = 2,
    router: Literal["linear", "cosine", "sigmoid", "expert_choice"] = "linear",
    capacity_factor: float = 0.0,
    act: nn.Module | None = None,
) -> MoE:
    """The usual mixture: E MLPs, of which the `top_k` most probable work on each token: (..., C) -> (..., C).

    "Outrageously Large Neural Networks" (arXiv 1701.06538). Cost: 2 k H W C hidden + H W C E multiply-adds, as k MLPs.

    Args:
        dim: C.
        hidden: width inside an expert.
        experts: E.
        top_k: k.
        router: what decides; with "expert_choice" a token gets k experts in the mean.
        capacity_factor: 0 drops nothing; else an expert takes that many times its share of the tokens at most.
        act: between the two layers of an expert; GELU where None.

    Raises:
        ValueError: more experts per token than experts.
    """
    makers = {"linear": linear_router, "cosine": cosine_router, "sigmoid": sigmoid_router}
    decides: Router = (
        ExpertChoiceRouter(dim, experts, per_token=top_k)
        if router == "expert_choice"
        else makers[router](dim, experts, top_k)
    )
    dispatch = Capacity(capacity_factor) if capacity_factor else None
    return MoE(decides, StackedMLP(experts, dim, hidden, act=act), dispatch=dispatch)
