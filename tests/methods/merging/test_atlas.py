"""Task vectors with coefficients: what they are at 0 and 1, what is folded, and who is trusted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ommatid.methods.merging.atlas import (
    Composition,
    best_negation,
    consistency_loss,
    half_trusted_batches,
    random_partition,
    trusted_samples,
)
from ommatid.methods.merging.task_vectors import TwoLayers, parameters_of


@pytest.fixture
def models() -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(0)
    return TwoLayers((6, 8, 5)), [TwoLayers((6, 8, 5)) for _ in range(2)]


@pytest.mark.parametrize("scaling", ["isotropic", "blockwise", "partition"])
@pytest.mark.parametrize("linear", [False, True])
def test_begins_as_the_model_and_learns_coefficients_alone(models, scaling: str, linear: bool) -> None:
    model, tuned = models
    composition, x = Composition(model, tuned, scaling=scaling, parts=3, linear=linear), torch.randn(4, 6)
    torch.testing.assert_close(composition(x), model(x))
    composition(x).square().sum().backward()
    assert [name for name, value in composition.named_parameters() if value.requires_grad] == ["coefficients"]
    assert composition.coefficients.grad.abs().sum() > 0


def test_folds_into_the_tuned_model(models) -> None:
    model, (tuned, _) = models
    composition, x = Composition(model, [tuned]), torch.randn(4, 6)
    nn.init.ones_(composition.coefficients)
    torch.testing.assert_close(composition.folded()(x), tuned(x))


def test_parts_of_equal_coefficients_are_blocks_of_matrices(models) -> None:
    model, tuned = models
    parts, blocks = Composition(model, tuned, scaling="partition", parts=4), Composition(model, tuned)
    with torch.no_grad():
        blocks.coefficients.normal_()
        parts.coefficients.copy_(blocks.coefficients[..., None].expand(-1, -1, 4))
    for name, change in parts.change().items():
        torch.testing.assert_close(change, blocks.change()[name] if change.dim() == 2 else torch.zeros_like(change))


def test_tangent_agrees_for_small_coefficients(models) -> None:
    model, tuned = models
    bent, straight, x = Composition(model, tuned), Composition(model, tuned, linear=True), torch.randn(4, 6)
    for composition in (bent, straight):
        nn.init.constant_(composition.coefficients, 1e-3)
    moved = (bent(x) - model(x)).abs().max()
    assert (bent(x) - straight(x)).abs().max() < 0.02 * moved


def test_partition_deals_all_parts(models) -> None:
    partition = random_partition(parameters_of(models[0]), 3)
    assert partition.keys() == {(8, 6), (5, 8)}
    assert all(part.unique().tolist() == [0, 1, 2] for part in partition.values())


def test_unsure_samples_teach_nothing() -> None:
    weak, strong = torch.zeros(4, 3), torch.randn(4, 3, requires_grad=True)
    loss = consistency_loss(weak, strong, threshold=0.5)
    loss.backward()
    assert loss == 0
    assert strong.grad.abs().max() == 0
    trusted = consistency_loss(weak, strong, threshold=0.5, trusted=1, label=torch.tensor([2]))
    torch.testing.assert_close(trusted, -strong[0].log_softmax(-1)[2])


def test_the_surest_of_every_class_are_trusted() -> None:
    logits = torch.tensor([[3.0, 0], [5, 0], [4, 0], [0, 1]])
    trusted = trusted_samples(logits, 2)
    assert trusted.tolist() == [1, 2, 3]
    (batch,) = half_trusted_batches(trusted, torch.tensor([0, 7, 8]), 4)
    assert set(batch[:2].tolist()) <= {1, 2, 3}
    assert set(batch[2:].tolist()) <= {0, 7, 8}


def test_forgets_most_among_those_that_keep_the_control() -> None:
    target, control = torch.tensor([0.9, 0.3, 0.1]), torch.tensor([0.7, 0.69, 0.4])
    assert best_negation(target, control, 0.7) == 1
    with pytest.raises(ValueError, match="control"):
        best_negation(target, control, 0.9)
