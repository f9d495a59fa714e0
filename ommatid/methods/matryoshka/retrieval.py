"""Adaptive retrieval: a search among short prefixes, then the few that it found among longer ones.

Distances are those of Euclid, in float64. All vectors of the database have length 1 when they are compared, so that the
nearest one is that of the largest dot product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.models.config import require
from ommatid.ops.nearest import smallest

SCORES_AT_ONCE = 2**24
"""How many distances are held at a time."""


def shortlist(queries: Tensor, database: Tensor, *, size: int, count: int) -> Tensor:
    """The nearest `count` entries of the database for each query, by the first `size` features: (Q, count) indices.

    Exact, ascending; of equal distances the first entry wins. Cost: Q N size multiply-adds.

    Args:
        queries: (Q, D), and database (N, D): features of any length.

    Raises:
        ValueError: prefixes longer than the features, or more neighbours than entries.
    """
    require_prefix(size, database)
    require(0 < count <= len(database), "shortlist", count, f"from 1 to the size of the database ({len(database)})")
    entries = prefix(database, size)
    slices = prefix(queries, size).split(max(1, SCORES_AT_ONCE // len(database)))
    return torch.cat([smallest(-part @ entries.T, count) for part in slices])


def rerank(
    queries: Tensor, database: Tensor, neighbors: Tensor, *, sizes: Sequence[int], counts: Sequence[int]
) -> Tensor:
    """The neighbours (Q, k) in a better order, by longer and longer prefixes: (Q, counts[-1]) indices.

    At every stage the list is cut to its first `counts[i]`, which are then ordered by their first `sizes[i]` features:
    a funnel, or, with one stage, a single re-ranking. Cost: Q sum(counts[i] * sizes[i]) multiply-adds.

    Raises:
        ValueError: prefixes longer than the features, or a stage without a size and a count.
    """
    require(len(sizes) == len(counts) > 0, "shortlist", counts, f"one length for each of the {len(sizes)} stages")
    for size, count in zip(sizes, counts, strict=True):
        require_prefix(size, database)
        require(count > 0, "shortlist", count, "1 or more")
        neighbors = neighbors[:, :count]
        candidates = prefix(database[neighbors], size)
        # The query's length does not matter for the order of its own neighbours.
        scores = (candidates @ queries[:, :size, None].to(candidates.dtype)).squeeze(-1)
        neighbors = neighbors.gather(1, scores.argsort(dim=1, descending=True, stable=True))
    return neighbors


def retrieval_metrics(neighbors: Tensor, query_label: Tensor, database_label: Tensor, *, k: int) -> dict[str, Tensor]:
    """How many of the first k neighbours (Q, n) have the query's label, each number a mean over the queries: ().

    Args:
        query_label: (Q,), and database_label: (N,).
        k: a list shorter than this has nothing but misses in the places it lacks.

    Returns:
        map: of average precision, the sum of the precision at every hit, divided by k. precision: share of hits among
        k. hit: whether there is any. recall: hits as a share of all entries with the query's label.
    """
    require(k > 0, "k", k, "1 or more")
    hits = (database_label[neighbors[:, :k]] == query_label[:, None]).double()
    found = hits.cumsum(1)
    precision = found / torch.arange(1, hits.shape[1] + 1, device=hits.device)
    relevant = (database_label == query_label[:, None]).sum(1).clamp(min=1)
    per_query = {
        "map": (precision * hits).sum(1) / k,
        "precision": found[:, -1] / k,
        "hit": (found[:, -1] > 0).double(),
        "recall": found[:, -1] / relevant,
    }
    return {name: values.mean() for name, values in per_query.items()}


def prefix(features: Tensor, size: int) -> Tensor:
    """The first `size` features, brought to length 1."""
    return F.normalize(features[..., :size].double(), dim=-1)


def require_prefix(size: int, database: Tensor) -> None:
    dim = database.shape[-1]
    require(0 < size <= dim, "size", size, f"from 1 to the number of features ({dim})")
