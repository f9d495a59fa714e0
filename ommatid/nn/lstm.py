"""A single layer of LSTM with one bias, run over a sequence or a step at a time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
"""What is handed on from step to step: the hidden state and the cell, (B, H) each."""


class LSTM(nn.Module):
    """Long short-term memory: (B, N, I) -> (B, N, H).

    Neural Computation 9(8), 1997. Gates are ordered input, forget, cell, output. Cost: 4 N H (I + H) multiply-adds.

    Args:
        in_dim: I.
        dim: H.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * dim, in_dim))
        self.weight_hh = nn.Parameter(torch.empty(4 * dim, dim))
        self.bias = nn.Parameter(torch.empty(4 * dim))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Also the state behind the last step; the first one starts from `state`, or from zeros."""
        state = self.at_rest(inputs) if state is None else state
        hidden = []
        # What the inputs say to the gates depends on no earlier step: one product for all.
        for gates in F.linear(inputs, self.weight_ih, self.bias).unbind(1):
            state = self._advance(gates, state)
            hidden.append(state[0])
        return torch.stack(hidden, dim=1), state

    def step(self, x: Tensor, state: State) -> State:
        """The state behind one more input (B, I)."""
        return self._advance(F.linear(x, self.weight_ih, self.bias), state)

    def at_rest(self, inputs: Tensor) -> State:
        """Zeros for inputs (B, ..., I)."""
        zeros = inputs.new_zeros(inputs.shape[0], self.weight_hh.shape[1])
        return zeros, zeros

    def _advance(self, gates: Tensor, state: State) -> State:
        hidden, cell = state
        enter, keep, new, show = (gates + F.linear(hidden, self.weight_hh)).chunk(4, dim=-1)
        cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
        return show.sigmoid() * cell.tanh(), cell
