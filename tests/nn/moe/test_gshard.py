"""DeepSpeed's gates beyond its reference cases."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.nn.feedforward import MLP
from ommatid.nn.moe import GShardCapacity, GShardRouter, MoE, ResidualMoE, pyramid_moe, stack
from ommatid.nn.moe.gshard import Priority, kept_locations

DIM, EXPERTS, TOKENS = 8, 4, 24
RULES: list[tuple[int, Priority]] = [(1, "random"), (1, "equal"), (2, "rank"), (3, "probs"), (3, "position")]


@pytest.mark.parametrize("drop", [True, False])
@pytest.mark.parametrize(("top_k", "priority"), RULES)
def test_every_place_is_used_once_and_kept_weights_sum_to_one(top_k: int, priority: Priority, drop: bool) -> None:
    torch.manual_seed(0)
    chosen = GShardRouter(DIM, EXPERTS, top_k)(torch.randn(TOKENS, DIM))
    dispatch = GShardCapacity(0.5, min_capacity=2, drop=drop, priority=priority)
    routing, places = dispatch(chosen), dispatch.places(chosen)
    kept = torch.ones_like(routing.experts, dtype=torch.bool) if routing.kept is None else routing.kept
    used = (routing.experts * places + kept_locations(routing))[kept]
    assert len(used.unique()) == len(used)
    assert kept_locations(routing)[kept].max() < places
    assert kept.all() != drop
    if top_k > 1:
        sums = routing.kept_weights().sum(-1)
        assert torch.all((sums - 1).abs().minimum(sums.abs()) < 1e-6)


def test_a_layer_without_the_fixed_expert_loads_too() -> None:
    config = {"dim": DIM, "hidden_dim": 6, "num_experts": EXPERTS, "top_k": 2, "residual": False}
    model = ommatid.create_model("deepspeed_moe", **config)
    state = {"deepspeed_moe.gate.wg.weight": torch.ones(EXPERTS, DIM)}
    for expert in range(EXPERTS):
        for layer, shape in (("fc1", (6, DIM)), ("fc2", (DIM, 6))):
            name = f"deepspeed_moe.experts.deepspeed_experts.{expert}.{layer}"
            state |= {f"{name}.weight": torch.full(shape, float(expert)), f"{name}.bias": torch.zeros(shape[0])}
    assert ommatid.load_reference(model, state).complete
    assert model.layer.experts.fc1.weight[2].eq(2).all()


def test_a_residual_layer_of_equal_experts_is_the_expert() -> None:
    mlp, x = MLP(DIM, 6), torch.randn(TOKENS, DIM)
    moe = MoE(GShardRouter(DIM, 1, 1), stack(mlp, 1), dispatch=GShardCapacity(drop=False))
    torch.testing.assert_close(ResidualMoE(DIM, moe, mlp)(x), mlp(x))


def test_jitter_and_sampling_are_for_training() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(TOKENS, DIM)
    for policy in ("Jitter", "RSample"):
        router = GShardRouter(DIM, EXPERTS, 1, noisy_policy=policy)
        assert not torch.equal(router(tokens).weights, router(tokens).weights)
        router.eval()
        assert torch.equal(router(tokens).weights, router(tokens).weights)


def test_a_pyramid_has_more_experts_with_depth() -> None:
    layers = pyramid_moe([DIM, DIM], [2, 4])
    assert [layer.moe.router.experts for layer in layers] == [2, 4]
    with pytest.raises(ValueError, match="one number for each of 2 layers"):
        pyramid_moe([DIM, DIM], [2])
