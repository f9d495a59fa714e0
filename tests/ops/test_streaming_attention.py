"""What the accelerator computes in its order is what a processor computes at once."""

from __future__ import annotations

import pytest
import torch

from ommatid.ops.streaming_attention import (
    attention_schedule,
    reordered_attention,
    reordered_attention_reference,
    softmax_statistics,
    softmax_statistics_reference,
)
from ommatid.ops.table_gelu import table_gelu


def test_single_pass_softmax_gives_the_same_in_any_order() -> None:
    torch.manual_seed(0)
    scores = 20 * torch.randn(6, 11)
    expected = softmax_statistics(scores)
    for start in (None, torch.arange(6) % 4):
        for mine, theirs in zip(softmax_statistics_reference(scores, start), expected, strict=True):
            torch.testing.assert_close(mine, theirs)
    attention = (scores - expected[0][:, None]).exp() * expected[1][:, None]
    torch.testing.assert_close(attention, scores.softmax(-1))


@pytest.mark.parametrize(("tokens", "parallel"), [(9, 4), (10, 4), (1, 4), (3, 8), (7, 1), (129, 4)])
def test_the_schedule_joins_each_query_and_key_once(tokens: int, parallel: int) -> None:
    queries, keys = attention_schedule(tokens, parallel)
    pairs = [(query, key) for row, key in zip(queries.tolist(), keys.tolist(), strict=True) for query in row]
    met = [pair for pair in pairs if pair[0] >= 0]
    assert len(met) == len(set(met)) == tokens**2
    first = {}
    for query, key in met:
        first.setdefault(query, key)
    assert first == {query: query % parallel for query in range(tokens)}


@pytest.mark.parametrize(("tokens", "parallel"), [(9, 4), (3, 8)])
def test_reordered_attention_is_attention(tokens: int, parallel: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, tokens, 12)
    mine = reordered_attention_reference(query, key, value, 2, parallel)
    torch.testing.assert_close(mine, reordered_attention(query, key, value, 2))


def test_table_gelu_is_near_and_odd_but_for_its_argument() -> None:
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    exact = torch.nn.functional.gelu(x)
    assert (table_gelu(x) - exact).abs().max() < 1e-4
    torch.testing.assert_close(table_gelu(-x), table_gelu(x) - x)
