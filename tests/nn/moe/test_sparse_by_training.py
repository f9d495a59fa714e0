"""Routers that start dense and end sparse: temperature, and trees."""

from __future__ import annotations

import pytest
import torch

from ommatid.nn.moe import ActivatedLinear, LearnedPermutation, TemperatureRouter, TreeRouter, cooled
from ommatid.nn.moe.tree import smooth_step
from ommatid.ops.sinkhorn import nearest_permutation, sinkhorn

DIM, EXPERTS, TOKENS = 8, 6, 20


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_hot_all_experts_work_and_cold_one() -> None:
    router, tokens = TemperatureRouter(ActivatedLinear(DIM, EXPERTS), EXPERTS, threshold=0.1), torch.randn(TOKENS, DIM)
    router.temperature = 1e4
    assert router(tokens).kept.all()
    router.temperature = 1e-4
    assert torch.equal(router(tokens).kept.sum(-1), torch.ones(TOKENS, dtype=torch.long))


def test_an_activation_tells_temperature_from_weights() -> None:
    tokens = torch.randn(TOKENS, DIM)
    for activation, confounded in (("none", True), ("sigmoid", False)):
        router = TemperatureRouter(ActivatedLinear(DIM, EXPERTS, activation), EXPERTS, temperature=1.0)
        before = router(tokens).scores
        router.temperature = 3.0
        router.logits.weight.data *= 3
        router.logits.bias.data *= 3
        assert torch.allclose(router(tokens).scores, before, atol=1e-6) == confounded


def test_cools_geometrically_and_stays_there() -> None:
    assert [cooled(4.0, 1.0, step, 10) for step in (-1, 0, 5, 10, 99)] == [4.0, 4.0, 2.0, 1.0, 1.0]


def test_a_tree_of_two_is_its_split() -> None:
    router = TreeRouter(DIM, 2, trees=1, gamma=8.0)
    router.nodes.weight.data[1:] = 0
    tokens = torch.randn(TOKENS, DIM)
    left = smooth_step(router.nodes(tokens)[:, 0], 8.0)
    torch.testing.assert_close(router(tokens).weights, torch.stack([left, 1 - left], 1))


def test_sure_trees_use_at_most_one_expert_each() -> None:
    router = TreeRouter(DIM, EXPERTS, trees=2, gamma=1e-6)
    router.nodes.weight.data.normal_()
    routing = router(torch.randn(TOKENS, DIM))
    assert routing.kept.sum(-1).max() <= 2
    torch.testing.assert_close(routing.weights.sum(-1), torch.ones(TOKENS))


def test_a_single_expert_has_all_the_weight() -> None:
    assert (TreeRouter(DIM, 1)(torch.randn(TOKENS, DIM)).weights == 1).all()


def test_sinkhorn_sums_to_one_and_finds_the_identity() -> None:
    soft = sinkhorn(torch.randn(2, 5, 5), 100)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 5))
    torch.testing.assert_close(soft.sum(2), torch.ones(2, 5), atol=1e-3, rtol=0)
    near_identity = (torch.eye(5) + 0.1 * torch.rand(5, 5))[None]
    torch.testing.assert_close(sinkhorn(near_identity / 1e-3, 50), torch.eye(5)[None])
    assert torch.equal(nearest_permutation(near_identity), torch.eye(5)[None])


def test_a_permutation_is_learned_then_stays() -> None:
    permutation = LearnedPermutation(4, steps=3)
    router = TreeRouter(DIM, 4, permutation=permutation)
    probe = torch.randn(TOKENS, 4)
    for step in range(3):
        loss = (router(torch.randn(TOKENS, DIM)).weights * probe).sum()
        assert loss.requires_grad
        permutation.log_weights.grad = None
        loss.backward()
        assert (permutation.log_weights.grad is None) == (step == 2)
    learned = permutation()
    assert torch.equal(learned.sum(1), torch.ones(1, 4))
    assert set(learned.unique().tolist()) == {0.0, 1.0}
    permutation.eval()
    assert torch.equal(permutation(), learned)
