"""A mixture of experts one expert at a time: every expert is fetched once a layer, however many there are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


class QueuedExperts(nn.Module):
    """Two-layer experts on queues of tokens: (N, C) -> (N, C). Edge-MoE (arXiv 2305.18691).

    The weight of a chosen expert is its probability among all experts.

    Args:
        dim: C. hidden: width inside an expert. experts: E. top_k: experts of a token.
        act: between the two layers.
    """

    def __init__(self, dim: int, hidden: int, experts: int, top_k: int, *, act: Activation = F.gelu) -> None:
        super().__init__()
        self.top_k = top_k
        self.act = act
        self.w_gate = nn.Parameter(torch.empty(experts, dim))
        self.l1 = nn.Parameter(torch.empty(experts, hidden, dim))
        self.b1 = nn.Parameter(torch.zeros(experts, hidden))
        self.l2 = nn.Parameter(torch.empty(experts, dim, hidden))
        self.b2 = nn.Parameter(torch.zeros(experts, dim))
        for weight in (self.w_gate, self.l1, self.l2):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.with_queues(tokens)[0]

    def with_queues(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Answers (N, C), and the queues as `expert_queues` gives them."""
        probabilities = F.linear(tokens, self.w_gate).softmax(-1)
        # Sorted rather than `topk`: of equal ones the first counts.
        chosen = probabilities.sort(dim=-1, descending=True, stable=True).indices[:, : self.top_k]
        queues, lengths = expert_queues(chosen, len(self.w_gate))
        queued = queues[:, : int(lengths.max())]
        # Places past the end of a queue hold the first token, with weight 0.
        index, waiting = queued.clamp(min=0), queued >= 0
        hidden = self.act(torch.baddbmm(self.b1.unsqueeze(1), tokens[index], self.l1.mT))
        answers = torch.baddbmm(self.b2.unsqueeze(1), hidden, self.l2.mT)
        weights = probabilities.T.gather(1, index) * waiting
        features = torch.zeros_like(tokens).index_add(
            0, index.flatten(), (weights.unsqueeze(-1) * answers).flatten(0, 1)
        )
        return features, queues, lengths


def expert_queues(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """The experts (N, k) that tokens chose -> queues (E, N) of tokens in order, -1 behind the last; lengths (E,)."""
    tokens = len(chosen)
    wants = torch.zeros(tokens, experts, dtype=torch.bool, device=chosen.device).scatter(1, chosen, True).T
    lengths = wants.sum(1)
    order = wants.logical_not().sort(dim=1, stable=True).indices
    places = torch.arange(tokens, device=chosen.device)
    return order.where(places < lengths.unsqueeze(1), -1), lengths
