"""The selective state-space part: K sequences, each scanned with a parameter set of its own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.selective_scan import selective_scan


class SelectiveScan(nn.Module):
    """Computes step sizes, inputs and readouts from the sequences and scans them: (B, K, L, E) -> (B, K, L, E).

    Mamba (arXiv 2312.00752), with one parameter set for each direction as in VMamba (arXiv 2401.10166).
    Cost: K L E (2 R + 2 N + 5 N) multiply-adds, and K L E N exponentials.

    Args:
        dim: E.
        sets: K.
        state_dim: N, numbers that a channel remembers.
        dt_rank: R, width between the sequence and its step sizes; ceil(E / 16) where None.
    """

    def __init__(self, dim: int, sets: int, *, state_dim: int = 1, dt_rank: int | None = None) -> None:
        super().__init__()
        rank = dt_rank or math.ceil(dim / 16)
        self.split = (rank, state_dim, state_dim)
        self.x_proj = nn.Parameter(torch.empty(sets, rank + 2 * state_dim, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.dt_proj = nn.Parameter(torch.empty(sets, dim, rank).uniform_(-(rank**-0.5), rank**-0.5))
        self.dt_bias = nn.Parameter(initial_dt_bias(sets, dim))
        self.A_log = nn.Parameter(torch.arange(1.0, state_dim + 1).log().repeat(sets, dim, 1))
        self.D = nn.Parameter(torch.ones(sets, dim))

    def forward(self, sequences: Tensor) -> Tensor:
        low_rank, B, C = (sequences @ self.x_proj.mT).split(self.split, dim=-1)  # noqa: N806
        delta = F.softplus((low_rank @ self.dt_proj.mT).float() + self.dt_bias[:, None])
        return selective_scan(sequences, delta, -self.A_log.exp(), B, C, self.D)


def initial_dt_bias(sets: int, dim: int) -> Tensor:
    """(K, E): what softplus turns into step sizes that are spread evenly, by their logarithm, from 0.001 to 0.1."""
    low, high = math.log(1e-3), math.log(1e-1)
    step = torch.exp(low + (high - low) * torch.rand(sets, dim)).clamp(min=1e-4)
    return step + torch.log(-torch.expm1(-step))
