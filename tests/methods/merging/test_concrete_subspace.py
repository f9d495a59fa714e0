"""Merging under a shared mask: what a mask may not change, and that learning one makes the merge surer."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from ommatid.methods.merging.concrete_subspace import ConcreteMerge, adapt_weights, entropy_loss, learn_mask, masked
from ommatid.methods.merging.task_vectors import TwoLayers, composed, parameters_of, task_vectors, with_parameters


def models(tasks: int = 2) -> tuple[nn.Module, list[nn.Module]]:
    torch.manual_seed(0)
    return TwoLayers((6, 8, 5)), [TwoLayers((6, 8, 5)) for _ in range(tasks)]


def test_one_task_of_full_weight_is_the_tuned_model_under_any_constant_mask() -> None:
    model, (tuned,) = models(1)
    vectors = task_vectors(model, [tuned])
    masks = {name: torch.full_like(value, 0.2) for name, value in parameters_of(model).items()}
    merged = with_parameters(model, composed(parameters_of(model), masked(vectors, masks), torch.ones(1)))
    x = torch.randn(3, 6)
    torch.testing.assert_close(merged(x), tuned(x))


def test_weight_for_each_parameter_is_that_of_its_task_where_all_are_equal() -> None:
    model, tuned = models(3)
    base, vectors, weights = parameters_of(model), task_vectors(model, tuned), torch.tensor([0.1, 0.5, 0.3])
    by_task, by_parameter = composed(base, vectors, weights), composed(base, vectors, weights[:, None].expand(3, 6))
    for name, value in by_task.items():
        torch.testing.assert_close(by_parameter[name], value)


@pytest.mark.parametrize("adapt", [False, True])
def test_learning_makes_the_merged_model_surer(adapt: bool) -> None:
    model, tuned = models()
    images = [torch.randn(16, 6), torch.randn(16, 6)]
    heads = [nn.Identity(), nn.Identity()]
    merge = ConcreteMerge(model, tuned, granularity="layer")
    before = entropy_loss(
        model, merge({name: torch.full_like(v, 0.5) for name, v in merge.base.items()}), heads, images
    )
    learn_mask(merge, model, heads, itertools.repeat(images), adapt_weights=adapt, steps=40, learning_rate=0.1)
    masks = adapt_weights(merge, model, heads, itertools.repeat(images), steps=40, learning_rate=0.02)
    assert entropy_loss(model, merge(masks), heads, images) < before


def test_refuses_models_of_another_architecture() -> None:
    model, _ = models()
    with pytest.raises(ValueError, match="architecture"):
        task_vectors(model, [TwoLayers((6, 9, 5))])
    with pytest.raises(ValueError, match="coefficients"):
        composed(parameters_of(model), task_vectors(model, [model]), torch.ones(2))
