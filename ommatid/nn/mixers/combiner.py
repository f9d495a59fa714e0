"""Combiner: attention to the tokens of the own row or column, and to all others through summaries."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.summarized_attention import (
    Pool,
    Running,
    axial_attention,
    causal_mixture_attention,
    fixed_attention,
    logarithmic_attention,
    mixture_attention,
)

Factorization = Literal["fixed", "axial_rowmajor", "axial_mixture", "logarithmic"]
LocalSummary = Literal["identity-max", "identity-mean", "identity-sum", "relu-max", "relu-mean", "relu-sum"]
RowSummary = Literal["none", "wsum", "proj", "wsum_proj"]


def combiner_attention(
    dim: int,
    heads: int,
    *,
    factorization: Factorization = "axial_mixture",
    causal: bool = False,
    local_summary: LocalSummary = "identity-max",
    row_summary: RowSummary = "wsum_proj",
    running_summary: Running = "sum",
    bias: bool = False,
) -> SummarizedAttention:
    """Multi-head attention that sees what is far through summaries: (B, H, W, C) -> (B, H, W, C).

    "Combiner: Full Attention Transformer with Sparse Computation Cost" (arXiv 2107.05768). Rows are the map's, or the
    segments of a sequence.
    Cost for N = H W: 4 N C^2 multiply-adds, and 2 N C for each key of a query: H + W in "fixed" and "axial_rowmajor",
    3 H + 3 W in "axial_mixture", log2 N in "logarithmic"; about as much again for the summaries.

    Args:
        dim: C.
        heads: number of heads; divides C.
        factorization: "fixed" and "axial_rowmajor" see the own row, and others through one summary each, or one for
            each of its columns; "axial_mixture" sees the own row and column, and the rest through running summaries;
            "logarithmic" sees blocks of 1, 2, 4, ... tokens before it, whatever the rows, and is always causal.
        causal: no token sees later ones, row by row.
        local_summary: how "fixed" pools keys and queries of a row.
        row_summary: of "axial_rowmajor"; see `AxialRows`.
        running_summary: of "axial_mixture"; the maximum is for causal ones.
        bias: of all linear layers.

    Raises:
        ValueError: a running maximum that is not causal.
    """
    attend: nn.Module
    if factorization == "fixed":
        attend = FixedRows(LOCAL_SUMMARIES[local_summary], causal=causal)
    elif factorization == "axial_rowmajor":
        attend = AxialRows(dim, row_summary, causal=causal, bias=bias)
    elif factorization == "axial_mixture":
        attend = AxialMixture(running_summary, causal=causal)
    else:
        attend = BinaryBlocks()
    return SummarizedAttention(dim, heads, attend, bias=bias)


class SummarizedAttention(nn.Module):
    """Queries, keys and values, and what `attend` makes of them: (B, H, W, C) -> (B, H, W, C).

    `attend` takes the layer's input and the three, (B, heads, H, W, d), queries scaled, and gives one like them.
    """

    def __init__(self, dim: int, heads: int, attend: nn.Module, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.attend = attend
        self.proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 4, 1, 2, 5)
        return self.proj(merged(self.attend(x, query * self.scale, key, value)))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class FixedRows(nn.Module):
    """`fixed_attention`, with `pool` for summaries."""

    def __init__(self, pool: Pool, *, causal: bool) -> None:
        super().__init__()
        self.pool = pool
        self.causal = causal

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return fixed_attention(query, key, value, self.pool, causal=self.causal)


class AxialRows(nn.Module):
    """`axial_attention`: a row says at each column what plain attention within it gives there.

    Args:
        dim: C.
        summary: what stands for that as a key. "none": the token's own; "wsum": the row's keys, weighed as values are;
            "proj": a linear map of the layer's input plus a linear map of the output, normed; "wsum_proj": the same
            with weighed keys for the output.
        bias: of the linear maps.
    """

    def __init__(self, dim: int, summary: RowSummary, *, causal: bool, bias: bool) -> None:
        super().__init__()
        self.causal = causal
        self.weighs_keys = summary.startswith("wsum")
        self.row_key = RowKey(dim, bias=bias) if summary.endswith("proj") else None

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = (query @ key.mT).softmax(-1)
        said = weights @ value
        row_key = weights @ key if self.weighs_keys else key
        if self.row_key is not None:
            row_key = self.row_key(x, row_key if self.weighs_keys else said)
        return axial_attention(query, key, value, row_key, said, causal=self.causal)


class RowKey(nn.Module):
    """A linear map of norm(x + linear map of `said`): x (B, H, W, C), said (B, heads, H, W, d) -> as `said`."""

    def __init__(self, dim: int, *, bias: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim, bias=bias)
        self.norm = nn.LayerNorm(dim)
        self.outer = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, said: Tensor) -> Tensor:
        keys = self.outer(self.norm(x + self.inner(merged(said))))
        return keys.unflatten(-1, (said.shape[1], -1)).permute(0, 3, 1, 2, 4)


class AxialMixture(nn.Module):
    """`mixture_attention`, or its causal form. Raises ValueError for a running maximum that is not causal."""

    def __init__(self, running: Running, *, causal: bool) -> None:
        super().__init__()
        if running != "sum" and not causal:
            raise ValueError(f"running_summary = {running!r} is not possible: allowed is 'sum' where nothing is causal")
        self.running: Running = running
        self.causal = causal

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.causal:
            return causal_mixture_attention(query, key, value, self.running)
        return mixture_attention(query, key, value)


class BinaryBlocks(nn.Module):
    """`logarithmic_attention` of all rows, one after another."""

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        sequences = (part.flatten(2, 3) for part in (query, key, value))
        return logarithmic_attention(*sequences).view_as(query)


def merged(heads: Tensor) -> Tensor:
    """(B, heads, H, W, d) -> (B, H, W, heads * d)."""
    return heads.permute(0, 2, 3, 1, 4).flatten(3)


def pooled(x: Tensor, *, act: str, how: str) -> Tensor:
    """(..., tokens, d) -> (..., d), of all tokens or of what is positive in them."""
    x = x.relu() if act == "relu" else x
    if how == "max":
        return x.amax(-2)
    return x.mean(-2) if how == "mean" else x.sum(-2)


def _pool(name: str) -> Pool:
    act, how = name.split("-")
    return partial(pooled, act=act, how=how)


LOCAL_SUMMARIES: dict[str, Pool] = {name: _pool(name) for name in get_args(LocalSummary)}
