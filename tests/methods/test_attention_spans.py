"""Attention spans: the widest rule is plain causal attention and loses nothing, budgets only ever cost."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ommatid.methods.attention_spans import Spans, attention_influence, best_plans, candidate_rules, grouped_heads
from ommatid.ops.elastic_window import elastic_window_attention

DENSE = Spans(torch.tensor([0.0]), torch.tensor([1.0]))


def test_the_widest_rule_is_causal_attention_and_loses_nothing() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 1, 24, 8)
    spanned = elastic_window_attention(query, key, value, DENSE.layout(24, 4))
    assert torch.allclose(spanned, F.scaled_dot_product_attention(query, key, value, is_causal=True), atol=1e-6)
    assert DENSE.loss(torch.rand(3, 6, 6), 4).abs().max() == 0


def test_influence_is_the_change_that_removing_a_little_of_a_key_makes() -> None:
    torch.manual_seed(0)
    query, key, value, gradient = torch.randn(4, 1, 1, 6, 4, dtype=torch.float64)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    weights = (query @ key.mT / 2).masked_fill(~causal, -torch.inf).softmax(-1)
    row, column, share = 4, 2, 1e-6
    lighter = weights.clone()
    lighter[..., row, column] *= 1 - share
    lighter[..., row, :] /= lighter[..., row, :].sum(-1, keepdim=True)
    change = ((lighter - weights) @ value * gradient).sum() / share
    # The first-order change of taking all of it away is divided by what the others then share.
    expected = change.abs() / (1 - weights[..., row, column])
    influence = attention_influence(query, key, value, gradient)
    assert torch.allclose(influence[..., row, column], expected, rtol=1e-4)


def plans(budget: float, influence: torch.Tensor, limit: int = 2):
    spans = candidate_rules(
        [-4, 0, 4, 8], [0.0, 0.5, 1.0], max_profile_length=16, max_token_length=32, min_token_length=8
    )
    losses = [spans.loss(influence, 4).double().numpy()]
    costs = spans.cost(16, 4).double().numpy()[None]
    return best_plans(losses, costs, np.array([budget * 16 * 4]), layers=2, lower_ratio=0.0, plan_limit=limit)


def test_a_larger_budget_never_loses_more_and_the_whole_loses_nothing() -> None:
    torch.manual_seed(0)
    influence = torch.rand(4, 4, 4)
    found = [plans(budget, influence).single_value.item() for budget in (0.7, 0.85, 1.0)]
    assert found[0] > found[1] > found[2] == 0


def test_layers_keep_to_their_number_of_rules_and_too_small_a_budget_is_refused() -> None:
    torch.manual_seed(0)
    alike = plans(0.8, torch.rand(4, 4, 4), limit=1).single[0]
    assert alike[0] == alike[1]
    assert alike[2] == alike[3]
    with pytest.raises(ValueError, match="density_bounds"):
        plans(0.01, torch.rand(4, 4, 4))


def test_equal_rules_become_neighbours() -> None:
    order = grouped_heads(Spans(torch.tensor([8.0, 0.0, 8.0, 0.0]), torch.tensor([0.0, 0.5, 0.0, 0.0])))
    assert order.tolist() == [3, 1, 0, 2]
