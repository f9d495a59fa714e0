"""Mixture of experts: a channel mixer of many, of which each token uses a few."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.moe.dispatch import Dropless
from ommatid.nn.moe.experts import StackedMLP
from ommatid.nn.moe.mixing import mix_sorted
from ommatid.nn.moe.routers import linear_router
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

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.mix(x, *context)[0]

    def mix(self, x: Tensor, *context: Tensor) -> tuple[Tensor, Routing]:
        """What `forward` gives, and what was decided on the way. `context` goes to the router."""
        tokens = x.flatten(0, -2)
        routing = self.dispatch(self.router(tokens, *context))
        mixed = mix_sorted(tokens, routing, self.experts, weigh_input=self.weigh_input)
        return mixed.unflatten(0, x.shape[:-1]), routing


def mixture_of_mlps(dim: int, hidden: int, *, experts: int = 8, top_k: int = 2, act: nn.Module | None = None) -> MoE:
    """The usual mixture: E MLPs, of which the `top_k` most probable work on each token, and none is dropped.

    Raises:
        ValueError: more experts per token than experts.
    """
    return MoE(linear_router(dim, experts, top_k), StackedMLP(experts, dim, hidden, act=act))
