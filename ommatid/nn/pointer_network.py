"""Pointer network: a sequence of positions in its own input, of whatever length.

"Pointer Networks" (arXiv 1506.03134).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.lstm import LSTM


class PointerAttention(nn.Module):
    """u = v . tanh(W1 e + W2 d) of every element e and decoder state d: (B, N, H), (B, T, H) -> (B, T, N)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.element = nn.Linear(dim, dim, bias=False)
        self.state = nn.Linear(dim, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        return self.scores(self.element(encoded), decoded)

    def scores(self, elements: Tensor, decoded: Tensor) -> Tensor:
        """The same of elements that went through W1 before."""
        return self.score((elements.unsqueeze(1) + self.state(decoded).unsqueeze(2)).tanh()).squeeze(-1)


class PointerNetwork(nn.Module):
    """An LSTM reads the elements (B, N, I), another points at them: at each of T steps a distribution over N.

    The number of elements may change from call to call. Cost: 4 (N + T) H (I + H) + (N + T) H^2 + N T H multiply-adds.

    Args:
        in_dim: I.
        dim: H.
        masked: no element is pointed at twice, as tours ask for.
    """

    def __init__(self, in_dim: int, dim: int, *, masked: bool = False) -> None:
        super().__init__()
        self.masked = masked
        self.encoder = LSTM(in_dim, dim)
        self.decoder = LSTM(in_dim, dim)
        self.start = nn.Parameter(torch.zeros(1, in_dim))
        self.attention = PointerAttention(dim)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.08, 0.08)

    def forward(self, elements: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities (B, T, N) where each step is told what the one before should have pointed at.

        Args:
            elements: (B, N, I).
            targets: (B, T) integers from 0 to N - 1.

        An element that was a target before has the logarithm minus infinity where `masked`.
        """
        encoded, state = self.encoder(elements)
        before = targets[:, :-1]
        told = elements.gather(1, before.unsqueeze(-1).expand(-1, -1, elements.shape[-1]))
        decoded, _ = self.decoder(torch.cat([self._first(elements).unsqueeze(1), told], dim=1), state)
        scores = self.attention(encoded, decoded)
        if self.masked:
            scores = scores.masked_fill(pointed_before(targets, elements.shape[1]), -torch.inf)
        return scores.log_softmax(-1)

    def decode(self, elements: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor]:
        """Points at the likeliest element at each step, (B, steps) integers, with log-probabilities (B, steps, N).

        As many steps as there are elements where None.

        Raises:
            ValueError: there are more steps than elements where `masked`.
        """
        count = elements.shape[1]
        steps = count if steps is None else steps
        if steps < 1 or (self.masked and steps > count):
            allowed = f"from 1 to the number of elements ({count})" if self.masked else "a positive integer"
            raise ValueError(f"steps = {steps} is not possible: allowed is {allowed}")
        encoded, state = self.encoder(elements)
        encoded, shown = self.attention.element(encoded), self._first(elements)
        taken = torch.zeros(elements.shape[:2], dtype=torch.bool, device=elements.device)
        pointers, distributions = [], []
        for _ in range(steps):
            state = self.decoder.step(shown, state)
            scores = self.attention.scores(encoded, state[0].unsqueeze(1)).squeeze(1)
            if self.masked:
                scores = scores.masked_fill(taken, -torch.inf)
            pointer = scores.argmax(-1, keepdim=True)
            taken = taken.scatter(1, pointer, True)
            shown = elements.gather(1, pointer.unsqueeze(-1).expand(-1, -1, elements.shape[-1])).squeeze(1)
            pointers.append(pointer.squeeze(1))
            distributions.append(scores.log_softmax(-1))
        return torch.stack(pointers, dim=1), torch.stack(distributions, dim=1)

    def _first(self, elements: Tensor) -> Tensor:
        """What the decoder reads first: (B, I)."""
        return self.start.expand(elements.shape[0], -1)


def pointed_before(targets: Tensor, count: int) -> Tensor:
    """Which of `count` elements were a target of an earlier step: (B, T) integers -> (B, T, count) booleans."""
    chosen = nn.functional.one_hot(targets, count)
    return chosen.cumsum(1) - chosen > 0


def chosen_log_probability(log_probabilities: Tensor, pointers: Tensor) -> Tensor:
    """(B, T, N) and (B, T) -> (B, T): of the elements that were pointed at."""
    return log_probabilities.gather(-1, pointers.unsqueeze(-1)).squeeze(-1)
