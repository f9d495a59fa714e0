"""Retention: causal linear attention whose heads forget at constant rates of their own."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.retention import retention_chunkwise, retention_parallel, retention_recurrent

Form = Literal["parallel", "recurrent", "chunkwise"]


class Retention(nn.Module):
    """Multi-head retention along the sequence of all positions: (B, ..., C) -> (B, ..., C), whatever the axes between.

    Every token reads the tokens up to itself, row by row. RetNet (arXiv 2307.08621), on images ViR (arXiv 2310.19731),
    without RetNet's group norm, gate and rotation. The three forms give the same numbers.
    Cost for N = H W: 4 N C^2 multiply-adds, and 2 N^2 C (parallel), 2 N C^2 / heads (recurrent), or
    2 N chunk C + 2 N C^2 / heads (chunkwise).

    Args:
        dim: C.
        heads: number of heads; divides C. Their decays run from 1 - 1/32 for the first to 1 - 1/512 for the last.
        form: how to compute it; may be changed later.
        chunk_size: tokens of a chunk, in chunkwise form.
    """

    def __init__(self, dim: int, heads: int, *, form: Form = "chunkwise", chunk_size: int = 64) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5  # also of heads that have lost units since
        self.form = form
        self.chunk_size = chunk_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.log_decay: Tensor
        forgotten = torch.linspace(math.log(1 / 32), math.log(1 / 512), heads, dtype=torch.float64).exp()
        self.register_buffer("log_decay", torch.log1p(-forgotten).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return self.proj(self.retain(query * self.scale, key, value).flatten(2)).view(x.shape)

    def retain(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, N, heads, d), each of the three -> (B, N, heads, d)."""
        if self.form == "parallel":
            return retention_parallel(query, key, value, self.log_decay)
        if self.form == "recurrent":
            return retention_recurrent(query, key, value, self.log_decay)[0]
        return retention_chunkwise(query, key, value, self.log_decay, chunk_size=self.chunk_size)[0]

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
