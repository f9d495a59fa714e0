"""Mixture of heads: every token decides how much each attention head counts for it, and which ones not at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MixtureOfHeads(nn.Module):
    """Weights of the heads of each token: (..., C) -> (..., heads), those of shared heads first.

    MoH (arXiv 2410.11842). Of the routed heads, the `active` most probable get a weight. Cost: heads + 2 times C
    multiply-adds a token.

    Args:
        dim: C.
        heads: number of heads.
        shared: how many of them every token has.
        active: how many of the others a token has; 0 only where all heads are shared.
    """

    def __init__(self, dim: int, heads: int, shared: int, active: int) -> None:
        super().__init__()
        self.shared = shared
        self.active = active
        self.share = nn.Linear(dim, shared, bias=False) if shared > 1 else None
        self.route = nn.Linear(dim, heads - shared, bias=False) if active else None
        self.divide = nn.Linear(dim, 2, bias=False) if active and shared else None

    def forward(self, x: Tensor, balance: list[Tensor] | None = None) -> Tensor:
        """`balance` collects the load-balance loss, a scalar over all tokens, where there are routed heads."""
        if self.route is None:
            return self._shared_weights(x)
        probabilities = self.route(x).softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter(-1, probabilities.topk(self.active).indices, 1.0)
        if balance is not None:
            balance.append(load_balance(probabilities, chosen))
        kept = probabilities * chosen
        smallest = torch.finfo(torch.float32).eps
        routed = self.active * kept / kept.sum(-1, keepdim=True).clamp(min=smallest)
        if self.divide is None:
            return routed
        for_shared, for_routed = (2 * self.divide(x).softmax(-1)).split(1, dim=-1)
        return torch.cat([for_shared * self._shared_weights(x), for_routed * routed], dim=-1)

    def _shared_weights(self, x: Tensor) -> Tensor:
        return torch.ones_like(x[..., :1]) if self.share is None else self.shared * self.share(x).softmax(-1)


def load_balance(probabilities: Tensor, chosen: Tensor) -> Tensor:
    """E sum_e P_e F_e over tokens (..., E), of shape (): as many as are chosen where all experts are used alike.

    P is the mean probability of an expert and F the share of the tokens that chose it.
    """
    experts = probabilities.shape[-1]
    means = [values.flatten(0, -2).mean(0) for values in (probabilities, chosen)]
    return experts * (means[0] * means[1]).sum()
