"""Mamba-2: a gated causal scan of a sequence, whose heads forget at one rate each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.norm import RMSNorm
from ommatid.nn.selective_scan import initial_dt_bias
from ommatid.ops.state_space_duality import scalar_decay_scan

KERNEL = 4


class Mamba2(nn.Module):
    """One projection to everything, causal convolution, scan, gate, norm, projection: (B, L, C) -> (B, L, C).

    "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
    (arXiv 2405.21060), with one group. Cost: L (C (2 E + 2 n + heads) + E C) multiply-adds, with E = expand C, and
    those of the convolution and of `scalar_decay_scan`.

    Args:
        dim: C.
        state_dim: n, numbers that each channel remembers.
        head_dim: width of a head; divides E.
        expand: width of the scan by C.

    Raises:
        ValueError: the width of the scan is no multiple of the heads'.
    """

    def __init__(self, dim: int, *, state_dim: int = 64, head_dim: int = 64, expand: int = 2) -> None:
        super().__init__()
        inner, heads = expand * dim, expand * dim // head_dim
        if inner != heads * head_dim:
            raise ValueError(f"head_dim = {head_dim} is not possible: allowed is a divisor of {inner} channels")
        self.split = (inner, inner + 2 * state_dim, heads)
        self.state_dim, self.head_dim = state_dim, head_dim
        self.proj_in = nn.Linear(dim, sum(self.split), bias=False)
        convolved = inner + 2 * state_dim
        self.conv = nn.Conv1d(convolved, convolved, KERNEL, padding=KERNEL - 1, groups=convolved)
        self.dt_bias = nn.Parameter(initial_dt_bias(1, heads)[0])
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = RMSNorm(inner, eps=1e-5)
        self.proj_out = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, signal, step = self.proj_in(x).split(self.split, dim=-1)
        convolved = F.silu(self.conv(signal.mT)[..., : x.shape[1]].mT)
        inner, B, C = convolved.split((self.split[0], self.state_dim, self.state_dim), dim=-1)  # noqa: N806
        by_head = inner.unflatten(-1, (-1, self.head_dim))
        delta = F.softplus(step.to(self.dt_bias.dtype) + self.dt_bias)
        scanned = scalar_decay_scan(by_head, delta, -self.A_log.exp(), B, C) + self.D[:, None] * by_head
        return self.proj_out(self.norm(scanned.flatten(2) * F.silu(gate)))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj_out, scale)
