"""Lightning attention: causal linear attention without a divisor, whose heads forget at constant rates."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.alibi import alibi_slopes
from ommatid.ops.precision import precise
from ommatid.ops.retention import retention_chunkwise

SimpleRMSNorm = partial(nn.RMSNorm, eps=1e-6, elementwise_affine=False)
"""x / sqrt(mean(x^2) + eps), without parameters, as in TransNormerLLM (arXiv 2307.14995)."""


class LightningAttention(nn.Module):
    """Attention that decays by the distance, normed afterwards and gated: (B, ..., C) -> (B, ..., C).

    As in TNL, "Various Lengths, Constant Speed" (arXiv 2405.17381), with the blocks of Lightning Attention-2 (arXiv
    2401.04658). Positions are read row by row. The gate is a low-rank sigmoid.
    Cost for d = C / heads: H W (4 C^2 + 2 C d) + 2 H W (64 + d) C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        slope_scale: factor of the rates at which heads forget; see `layer_slope_scale`.
        bias: of all linear layers.
    """

    def __init__(self, dim: int, heads: int, *, slope_scale: float = 1.0, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Sequential(
            nn.Linear(dim, dim // heads, bias=bias), nn.Linear(dim // heads, dim, bias=bias), nn.Sigmoid()
        )
        self.proj = nn.Linear(dim, dim, bias=bias)
        self.log_decay: Tensor
        self.register_buffer("log_decay", log_decay(heads, slope_scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        query, key, value = F.silu(precise(self.qkv(tokens))).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = retention_chunkwise(query, key, value, self.log_decay)[0]
        return self.proj(self.norm(mixed.flatten(2)) * self.gate(tokens)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class GatedLightningAttention(nn.Module):
    """The same with a plain product for a gate, as in TransNormerLLM (arXiv 2307.14995): (B, ..., C) -> (B, ..., C).

    Nothing divides the sums, so half precision would lose them before they are normed: they are made in float32.
    Queries and keys go through SiLU, values and the gate do not; the norm has no parameters. Positions are read row by
    row. Cost for d = hidden / heads: 5 H W C hidden + 2 H W (64 + d) hidden multiply-adds; twice the latter with
    rotary positions.

    Args:
        dim: C.
        heads: number of heads; divides the hidden width.
        hidden: width of queries, keys, values and the gate; dim where None.
        slope_scale: factor of the rates at which heads forget; see `layer_slope_scale`.
        rotary: learned rotary positions; without them the decay alone tells distances.
        bias: of both linear layers.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        hidden: int | None = None,
        slope_scale: float = 1.0,
        rotary: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        width = hidden or dim
        self.heads = heads
        self.qkvu = nn.Linear(dim, 4 * width, bias=bias)
        self.rotary = LearnedRotary(heads, width // heads) if rotary else nn.Identity()
        self.norm = SimpleRMSNorm(width)
        self.proj = nn.Linear(width, dim, bias=bias)
        self.log_decay: Tensor
        self.register_buffer("log_decay", log_decay(heads, slope_scale), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        projected = precise(self.qkvu(x.flatten(1, -2)))
        query, key, value, gate = projected.unflatten(-1, (4, self.heads, -1)).unbind(2)
        query, key = self.rotary(F.silu(query)), self.rotary(F.silu(key))
        mixed = retention_chunkwise(query, key, value, self.log_decay)[0]
        return self.proj(self.norm(mixed.flatten(2)) * gate.flatten(2)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class LearnedRotary(nn.Module):
    """Rotary positions at learned frequencies: (B, N, heads, d) -> (B, N, heads, 2 d).

    [x cos(n theta), x sin(n theta)] for token n: products of two such are sum_j q_j k_j cos((n - m) theta_j). The LRPE
    of TransNormerLLM (arXiv 2307.14995).
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        steps = torch.arange(heads * width) / (heads * width)
        self.theta = nn.Parameter((10000.0 ** (-2 * steps)).view(heads, width))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1], device=x.device)[:, None, None] * self.theta
        return torch.cat([x * angles.cos().to(x.dtype), x * angles.sin().to(x.dtype)], dim=-1)


def layer_slope_scale(layer: int, depth: int) -> float:
    """By how much the heads of a layer, counted from 0, forget less than those of the first; the last hardly does."""
    return 1 - layer / (depth - 1) + 1e-5


def log_decay(heads: int, slope_scale: float) -> Tensor:
    """(heads,): the logarithm of what is left of a token one step later."""
    return -slope_scale * torch.tensor(alibi_slopes(heads))
