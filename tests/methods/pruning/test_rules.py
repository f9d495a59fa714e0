"""What the specifications say must hold of each pruning rule, whatever the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ommatid.methods.pruning.allocation import allocate_sparsity
from ommatid.methods.pruning.dimap import dimap_masks, energy_share
from ommatid.methods.pruning.local import sparsegpt, wanda_mask, wanda_metric
from ommatid.methods.pruning.nvit_schedule import NViTSchedule
from ommatid.methods.pruning.patterns import nm_mask, unstructured_mask
from ommatid.methods.pruning.progressive import NMSchedule, densify, sparsify
from ommatid.methods.pruning.sparse_then_prune import global_magnitude_masks


@pytest.mark.parametrize(("shape", "dim"), [((6, 8), 0), ((8, 6), 1), ((6, 8, 3, 3), 0)])
def test_every_block_keeps_n_of_m(shape: tuple[int, ...], dim: int) -> None:
    mask = nm_mask(torch.randn(shape), 1, 4, dim=dim)
    blocks = mask.T.reshape(-1, 4) if dim else mask.movedim(1, -1).reshape(-1, 4)
    assert (blocks.sum(1) == 1).all()


def test_keeping_all_of_m_is_dense() -> None:
    assert nm_mask(torch.randn(4, 8), 4, 4).all()
    assert unstructured_mask(torch.randn(4, 8), 0.0).all()


def test_a_pattern_that_does_not_divide_the_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed is an M that divides"):
        nm_mask(torch.randn(3, 5), 2, 4)


def test_importance_is_invariant_to_a_layers_scale() -> None:
    weights = {"a.qkv": torch.randn(12, 4), "a.proj": torch.randn(4, 4), "b.qkv": torch.randn(12, 4)}
    ratios = {"qkv": 0.5, "proj": 0.25, "mlp": 0.5}
    masks = dimap_masks(weights, ratios)[0]
    scaled = dimap_masks(weights | {"b.qkv": 100 * weights["b.qkv"]}, ratios)[0]
    assert all(torch.equal(masks[name], scaled[name]) for name in weights)
    assert energy_share(weights["a.qkv"]).max() == 1
    assert sum(int((~masks[name]).sum()) for name in ("a.qkv", "b.qkv")) == 48


def test_ratio_zero_keeps_every_weight() -> None:
    weights = {"a.qkv": torch.randn(12, 4), "a.proj": torch.zeros(4, 4), "a.fc1": torch.randn(8, 4)}
    assert all(mask.all() for mask in dimap_masks(weights, {"qkv": 0.0, "proj": 0.0, "mlp": 0.0})[0].values())
    assert all(mask.all() for mask in global_magnitude_masks(weights, 0.0).values())


def test_global_magnitude_counts_all_tensors_together() -> None:
    masks = global_magnitude_masks({"small": torch.full((10,), 0.1), "large": torch.ones(10)}, 0.5)
    assert not masks["small"].any()
    assert masks["large"].all()


def test_equal_groups_get_the_same_sparsity() -> None:
    sparsity, kept, wanted = allocate_sparsity(torch.ones(4), torch.full((4,), 1000), 0.5, 0.7)
    torch.testing.assert_close(sparsity, torch.full((4,), 0.5), atol=2e-3, rtol=0)
    assert wanted <= kept <= wanted + 8


def test_no_group_is_sparser_than_the_cap() -> None:
    sparsity, _, _ = allocate_sparsity(torch.tensor([1e-4, 1.0, 5.0]), torch.tensor([500, 1000, 2000]), 0.5, 0.6)
    assert sparsity.max() <= 0.6 + 1e-6


def test_wanda_with_equal_inputs_is_magnitude_by_rows() -> None:
    weight = torch.randn(6, 10)
    mask = wanda_mask(wanda_metric(weight, torch.full((10,), 3.0)), 0.5)
    assert (mask.sum(1) == 5).all()
    assert (
        weight.abs().masked_fill(~mask, 9.0).min(1).values > weight.abs().masked_fill(mask, 0.0).max(1).values
    ).all()


def test_wanda_keeps_n_of_m_columns() -> None:
    mask = wanda_mask(torch.rand(6, 8), (2, 4))
    assert (mask.reshape(-1, 4).sum(1) == 2).all()


def test_sparsegpt_with_independent_inputs_changes_no_other_weight() -> None:
    weight = torch.randn(6, 10)
    pruned = sparsegpt(weight, torch.diag(torch.rand(10) + 0.5), 0.5)
    kept = pruned != 0
    torch.testing.assert_close(pruned[kept], weight[kept])
    assert 0.4 < float(kept.float().mean()) < 0.6


def test_sparsegpt_answers_closer_than_the_same_mask_alone() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(200, 10) @ torch.randn(10, 10)
    weight = torch.randn(6, 10)
    pruned = sparsegpt(weight, 2 * inputs.T @ inputs, 0.5)
    masked = weight * (pruned != 0)

    def error(other: torch.Tensor) -> float:
        return float((inputs @ (weight - other).T).square().sum())

    assert error(pruned) < error(masked)


def test_inputs_that_never_speak_lose_their_weights() -> None:
    hessian = torch.diag(torch.tensor([1.0, 0.0, 2.0, 3.0]))
    assert not sparsegpt(torch.randn(3, 4), hessian, 0.0)[:, 1].any()


def test_a_schedule_ends_with_hard_masks_and_straight_gradients() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 6)
    dense = layer.weight.detach().clone()
    (sparse,) = sparsify([layer], lambda: NMSchedule(target=(1, 8), total_epochs=4, decay="exp", coefficient=0.01))
    sparse.at(0, 0)
    torch.testing.assert_close(layer.weight, dense)
    sparse.at(5, 100)
    layer(torch.rand(2, 16)).sum().backward()
    assert layer.parametrizations.weight.original.grad.ne(0).all()
    densify([layer])
    assert (layer.weight.reshape(-1, 8).ne(0).sum(1) == 1).all()


def test_gates_close_for_good_and_the_cheapest_kind_first() -> None:
    torch.manual_seed(0)
    sizes = {"emb": (1, 32), "head": (2, 4), "qk": (2, 16), "v": (2, 16), "mlp": (2, 32)}
    schedule = NViTSchedule(lambda size: sum(size) / 100, 1e-9, prune_per_iteration=64)
    before: dict[str, torch.Tensor] = {}
    for _ in range(6):
        schedule.step({kind: torch.rand(shape) + (kind != "mlp") for kind, shape in sizes.items()})
        for kind, gates in before.items():
            assert (schedule.gates[kind] <= gates).all()
        before = {kind: gates.clone() for kind, gates in schedule.gates.items()}
    assert before["mlp"].sum() < 64
    assert all(gates.sum(1).min() >= 1 for gates in before.values())
