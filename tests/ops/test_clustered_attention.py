import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.clustered_attention import clustered_attention, local_attention

LEAST = -torch.finfo(torch.float32).max
VALID = torch.tensor([[True] * 12, [True] * 7 + [False] * 5])


def inputs(length: int = 12) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, length, 4, generator=generator) for _ in range(3)]


def members(seed: int) -> Tensor:
    scores = torch.rand(2, 2, 3, 12, generator=torch.Generator().manual_seed(seed))
    return scores.topk(6, dim=-1).indices


def cluster_by_cluster(query, key, value, query_members, key_members, memory, causal, avoid_self, valid) -> Tensor:
    sums, counts = torch.zeros_like(query), torch.zeros(2, 2, 12, 1)
    for b, h, k in itertools.product(range(2), range(2), range(3)):
        q, j = query_members[b, h, k], key_members[b, h, k]
        logits = query[b, h, q] @ key[b, h, j].T / 2
        if valid is not None:
            logits = logits.masked_fill(~(valid[b, q][:, None] & valid[b, j]), LEAST)
        if causal:
            logits = logits.masked_fill(q[:, None] < j, LEAST)
        if avoid_self:
            logits = logits.masked_fill(q[:, None] == j, -50000)
        values = value[b, h, j]
        if memory is not None:
            logits = torch.cat([query[b, h, q] @ memory[0][h, k].T / 2, logits], dim=1)
            values = torch.cat([memory[1][h, k], values])
        sums[b, h].index_add_(0, q, logits.softmax(-1) @ values)
        counts[b, h].index_add_(0, q, torch.ones(len(q), 1))
    return sums / (counts + 1e-5)


@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
@pytest.mark.parametrize("slots", [0, 2])
@pytest.mark.parametrize(("causal", "avoid_self"), [(False, False), (True, False), (True, True), (False, True)])
def test_clusters_follow_their_definition(causal: bool, avoid_self: bool, slots: int, valid: Tensor | None) -> None:
    memory = (torch.randn(2, 3, slots, 4), torch.randn(2, 3, slots, 4)) if slots else None
    query_members = members(0)
    key_members = query_members if avoid_self else members(1)
    expected = cluster_by_cluster(*inputs(), query_members, key_members, memory, causal, avoid_self, valid)
    mixed = clustered_attention(
        *inputs(), query_members, key_members, memory=memory, causal=causal, avoid_self=avoid_self, valid=valid
    )
    torch.testing.assert_close(mixed, expected)


def test_one_cluster_of_all_is_full_attention() -> None:
    everyone = torch.arange(12).expand(2, 2, 1, 12)
    expected = F.scaled_dot_product_attention(*inputs()) / (1 + 1e-5)
    torch.testing.assert_close(clustered_attention(*inputs(), everyone, everyone), expected)


@pytest.mark.parametrize("valid", [None, VALID], ids=["whole", "padded"])
@pytest.mark.parametrize("causal", [False, True])
def test_windows_follow_their_definition(causal: bool, valid: Tensor | None) -> None:
    query, key, value = inputs()
    expected = torch.zeros_like(query)
    key, value = (F.pad(x, (0, 0, 4, 4), value=-1.0) for x in (key, value))
    for b, token in itertools.product(range(2), range(12)):
        first = token // 4 * 4 - 4
        seen = torch.arange(first, first + (8 if causal else 12))
        allowed = (seen >= 0) & (seen < 12)
        if causal:
            allowed &= seen <= token
        if valid is not None:
            allowed &= valid[b, token] & valid[b, seen.clamp(0, 11)]
        logits = query[b, :, token, None] @ key[b, :, seen + 4].mT / 2
        weights = logits.masked_fill(~allowed, LEAST).softmax(-1)
        expected[b, :, token] = (weights @ value[b, :, seen + 4]).squeeze(1)
    torch.testing.assert_close(local_attention(*inputs(), 4, causal=causal, valid=valid), expected)
