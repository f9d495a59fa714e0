"""Attention between the pairs of tokens that a small network picks for each image."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ommatid.ops.attention import attend
from ommatid.ops.refusal import require_map

Mode = Literal["sparse", "reconstruct"]


class Connections(NamedTuple):
    """coefficients: (B, heads, N - 1, K). approximation: (B, heads, N - 1, N), of the attention of all but the class
    token. mask: (B, heads, N, N) booleans, the pairs that attention is computed for."""

    coefficients: Tensor
    approximation: Tensor
    mask: Tensor


class ConnectivityPredictor(nn.Module):
    """Guesses which keys each query needs, from a few channels and a few mixed tokens. Sparsifiner (arXiv 2303.13755).

    Args:
        head_dim: d.
        tokens: N, the class token included.
        keep_rate: of the keys, kept for each query.
        reduce_tokens, reduce_channels: the guess is made of K = N / the one and d / the other.
        basis_threshold: attention patterns are made of |basis| where that is more.
        coef_topk: patterns in a row; 0 for those whose coefficient is above `coef_threshold`, if that is above 0.
        score_threshold: keeps keys whose guess is above it instead of a share; 0 for the share.
        prune_rows: inactive tokens attend to nothing, instead of attending with zeros.
    """

    def __init__(
        self,
        head_dim: int,
        tokens: int,
        *,
        keep_rate: float = 0.25,
        reduce_tokens: int = 6,
        reduce_channels: int = 2,
        basis_threshold: float = 0.02,
        coef_topk: int = 8,
        coef_threshold: float = 0.0,
        score_threshold: float = 0.0,
        prune_rows: bool = False,
    ) -> None:
        super().__init__()
        patterns, width = tokens // reduce_tokens, head_dim // reduce_channels
        self.budget = math.ceil(keep_rate * tokens)
        self.basis_threshold = basis_threshold
        self.coef_topk = coef_topk
        self.coef_threshold = coef_threshold
        self.score_threshold = score_threshold
        self.prune_rows = prune_rows
        self.query = nn.Linear(head_dim, width)
        self.key = nn.Linear(head_dim, width)
        self.reduce = nn.Parameter(torch.zeros(tokens, patterns))
        self.basis = nn.Parameter(torch.zeros(tokens, patterns))
        for weight in (self.reduce, self.basis, self.query.weight, self.key.weight):
            nn.init.trunc_normal_(weight, std=0.02)

    @property
    def keeps_all(self) -> bool:
        """Whether every query keeps every key, as long as all tokens are active."""
        return not self.score_threshold and self.budget >= len(self.basis)

    def forward(self, query: Tensor, key: Tensor, mode: Mode, active: Tensor | None = None) -> Connections:
        """Query and key (B, heads, N, d), as attention gets them; `active` (B, N - 1): patch tokens still in use."""
        # In float32, whatever autocast says: what is near to the last kept score would be decided by rounding.
        with torch.autocast(query.device.type, enabled=False):
            dtype = self.query.weight.dtype
            return self._predicted(query.to(dtype), key.to(dtype), mode, active)

    def _predicted(self, query: Tensor, key: Tensor, mode: Mode, active: Tensor | None) -> Connections:
        query, key = self.query(query), self.key(key)
        if active is not None:
            with_class = torch.cat([torch.ones_like(active[:, :1]), active], dim=1)[:, None, :, None]
            query, key = query * with_class, key * with_class
        # As published, the number of heads scales the scores, not their width.
        scores = query[:, :, 1:] @ (self.reduce.T @ key).mT * query.shape[1] ** -0.5
        coefficients, basis = scores.softmax(-1), self.basis.T
        if mode == "sparse":
            coefficients = self._sparse(coefficients)
            basis = torch.where(basis.abs() > self.basis_threshold, basis.abs(), 0.0)
        approximation = coefficients @ basis
        return Connections(coefficients, approximation, self._mask(approximation.detach(), active))

    def _sparse(self, coefficients: Tensor) -> Tensor:
        if self.coef_topk:
            largest = coefficients.topk(min(self.coef_topk, coefficients.shape[-1]), dim=-1).indices
            return coefficients * torch.zeros_like(coefficients).scatter(-1, largest, 1.0)
        if self.coef_threshold:
            return torch.where(coefficients > self.coef_threshold, coefficients, 0.0)
        return coefficients

    def _mask(self, approximation: Tensor, active: Tensor | None) -> Tensor:
        if self.score_threshold:
            mask = approximation > self.score_threshold
        else:
            budget, eligible = self.budget, approximation
            if active is not None:
                # All images of a batch have as many active tokens, and there are never more of them than before.
                budget = min(budget, int(active[0].sum()))
                columns = torch.cat([torch.ones_like(active[:, :1]), active], dim=1).bool()[:, None, None]
                eligible = approximation.masked_fill(~columns, -torch.inf)
            kept = eligible.topk(min(budget, eligible.shape[-1]), dim=-1).indices
            mask = torch.zeros_like(approximation, dtype=torch.bool).scatter(-1, kept, True)
        if self.prune_rows and active is not None:
            mask = mask & active.bool()[:, None, :, None]
        return torch.cat([torch.ones_like(mask[:, :, :1]), mask], dim=2)


class Attended(NamedTuple):
    """tokens: (B, N, C). connections: what was predicted. class_weights: (B, N - 1), how much the class token looked
    at each patch, averaged over heads; None where nobody asked."""

    tokens: Tensor
    connections: Connections
    class_weights: Tensor | None


class SparseAttention(nn.Module):
    """Self-attention of a class token and patches, between predicted pairs only: (B, N, C) -> (B, N, C).

    From Sparsifiner (arXiv 2303.13755). In mode "reconstruct", in which the predictor learns, attention is dense.
    The predictor gets no gradient from the answer, only from its `approximation`.

    Args:
        dim: C.
        heads: number of heads; divides C.
        predictor: for this N.
        qkv_bias: bias of the joint query, key and value projection.
        mode: whether the prediction is used.
    """

    def __init__(
        self, dim: int, heads: int, predictor: ConnectivityPredictor, *, qkv_bias: bool = True, mode: Mode = "sparse"
    ) -> None:
        super().__init__()
        self.heads = heads
        self.mode: Mode = mode
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.predictor = predictor.requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.attended(tokens).tokens

    def attended(self, tokens: Tensor, active: Tensor | None = None, *, weigh: bool = False) -> Attended:
        """Also what was predicted, and with `weigh` where the class token looked."""
        expected = len(self.predictor.basis)
        require_map(tokens.shape[1] == expected, tokens, f"{expected} tokens, as many as the predictor is for")
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if active is not None:
            with_class = torch.cat([torch.ones_like(active[:, :1]), active], dim=1)[..., None, None]
            query, key, value = query * with_class, key * with_class, value * with_class
        connections = self.predictor(query.transpose(1, 2), key.transpose(1, 2), self.mode, active)
        sparse = self.mode == "sparse" and not (self.predictor.keeps_all and active is None)
        mixed = attend(query, key, value, bias=connections.mask if sparse else None)
        if sparse:
            seen = connections.mask.any(-1).mT[..., None]
            mixed = torch.where(seen, mixed.unflatten(-1, (self.heads, -1)), 0.0).flatten(2)
        weights = self._class_weights(query, key) if weigh else None
        return Attended(self.proj(mixed), connections, weights)

    def _class_weights(self, query: Tensor, key: Tensor) -> Tensor:
        """The class token attends to all, so that its row needs no mask."""
        scores = (query[:, :1] * key).sum(-1) * query.shape[-1] ** -0.5
        return scores.softmax(1).mean(-1)[:, 1:]
