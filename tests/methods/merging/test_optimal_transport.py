"""Fusing transformers: when the anchor is returned, what widths may differ, and what transport moves."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import ommatid
from ommatid.methods.merging.optimal_transport import POLICIES, TransportConfig, fuse_vits
from ommatid.models.backbones.vit import ViT
from ommatid.ops.transport import exact_plan, sinkhorn_plan

IMAGE = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def vit(dim: int = 8, heads: int = 2, seed: int = 0, **fields) -> ViT:
    torch.manual_seed(seed)
    return ommatid.create_model(
        "vit", image_size=8, patch_size=4, dim=dim, depth=2, heads=heads, num_classes=3, **fields
    ).eval()


@pytest.mark.parametrize("kind", ["acts", "wts"])
@pytest.mark.parametrize("qk_fusion", ["separate", "eq_t_map", "joint"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_model_fused_with_itself_is_itself(kind: str, qk_fusion: str, policy: str) -> None:
    model, config = vit(), TransportConfig(type=kind, solver="emd", squared=True)
    # Signs alone do not tell channels apart: the class token is left out where weights describe them.
    fused = fuse_vits([model], model, IMAGE, config, residual_policy=policy, qk_fusion=qk_fusion)
    for name, value in fused.named_parameters():
        if kind == "acts" or "class_token" not in name:
            torch.testing.assert_close(value, model.get_parameter(name), msg=name)


def test_hidden_units_in_another_order_find_their_places() -> None:
    anchor = vit()
    shuffled = copy.deepcopy(anchor)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(2))
    mlp = shuffled.blocks[1].channel.inner
    with torch.no_grad():
        for parameter in (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight.T):
            parameter.copy_(parameter[order].clone())
    fused = fuse_vits([shuffled], anchor, IMAGE, TransportConfig(solver="emd"))
    torch.testing.assert_close(fused(IMAGE), anchor(IMAGE))


@pytest.mark.parametrize("solver", ["sinkhorn", "emd", "sinkhorn_for_widening"])
@pytest.mark.parametrize("qk_fusion", ["separate", "eq_t_map", "joint"])
def test_other_widths_take_the_anchors(solver: str, qk_fusion: str) -> None:
    anchor = vit()
    others = [vit(12, 3, seed=1), vit(6, 1, seed=2, mlp_ratio=3.0)]
    fused = fuse_vits(others, anchor, IMAGE, TransportConfig(solver=solver), qk_fusion=qk_fusion)
    assert fused.config == anchor.config
    assert torch.isfinite(fused(IMAGE)).all()
    assert not torch.allclose(fused(IMAGE), anchor(IMAGE), atol=1e-4)


@pytest.mark.parametrize("norm", ["max", "mean", "median", "log", "none"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_every_distance_works(norm: str, metric: str) -> None:
    config = TransportConfig(metric_norm=norm, ground_metric=metric, standardize=False, normalize=True)
    assert torch.isfinite(fuse_vits([vit(seed=1)], vit(), IMAGE, config)(IMAGE)).all()


@pytest.mark.parametrize("shape", [(4, 4), (6, 4), (3, 7)])
def test_exact_plan_is_cheapest_and_sinkhorn_comes_near(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    cost = torch.rand(shape)
    rows, columns = (torch.full((side,), 1 / side, dtype=torch.float64) for side in shape)
    exact, soft = exact_plan(cost), sinkhorn_plan(cost, 0.05)
    for plan in (exact, soft):
        torch.testing.assert_close(plan.sum(1), rows)
        torch.testing.assert_close(plan.sum(0), columns)
    # No plan can be rewarded for more spreading than an even one.
    assert (exact * cost).sum() <= (soft * cost).sum() <= (exact * cost).sum() + 0.05 * math.log(cost.numel())
    torch.testing.assert_close(sinkhorn_plan(cost, 1e6), torch.full(shape, 1 / cost.numel(), dtype=torch.float64))


def test_refuses_models_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="class token"):
        fuse_vits([vit(class_token=False, global_pool="avg")], vit(), IMAGE)
    with pytest.raises(ValueError, match="residual_policy"):
        fuse_vits([vit()], vit(), IMAGE, residual_policy="sum")
    with pytest.raises(ValueError, match="regularisation"):
        sinkhorn_plan(torch.rand(3, 3), 1e-5)
