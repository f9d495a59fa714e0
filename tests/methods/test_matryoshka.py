"""Nested representations: what prefixes share, and what a search through them finds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ommatid.methods.matryoshka import (
    MatryoshkaHead,
    learn_thresholds,
    nested_cross_entropy,
    nested_loss,
    predict_in_cascade,
    rerank,
    shortlist,
)
from ommatid.ops.nearest import smallest


def test_shared_classifier_sees_the_other_features_as_zero() -> None:
    torch.manual_seed(0)
    head, feature = MatryoshkaHead((3, 8, 20), 5, efficient=True), torch.randn(4, 20)
    for logits, size in zip(head(feature), head.nesting, strict=True):
        cut = torch.where(torch.arange(20) < size, feature, 0)
        torch.testing.assert_close(logits, head.classifiers[0](cut))
        torch.testing.assert_close(logits, head.at(feature, size))
    assert head.at(feature, 13).shape == (4, 5)


def test_a_feature_learns_only_from_the_prefixes_that_hold_it() -> None:
    head, feature = MatryoshkaHead((2, 4), 3), torch.randn(5, 6, requires_grad=True)
    loss = nested_cross_entropy(head(feature), torch.tensor([0, 1, 2, 0, 1]), importance=(1.0, 0.0))
    (grad,) = torch.autograd.grad(loss, feature)
    assert grad[:, :2].abs().min() > 0
    assert grad[:, 2:].abs().max() == 0


def test_one_prefix_is_the_loss_of_the_normalised_embedding() -> None:
    image, text = torch.randn(4, 6), torch.randn(4, 6)
    found = nested_loss(lambda a, b: (a * b).sum(), image, text, nesting=(6,), importance=(2.0,))
    torch.testing.assert_close(found, 2 * F.cosine_similarity(image, text).sum())


def test_reranking_everything_is_the_exact_search() -> None:
    torch.manual_seed(0)
    queries, database = torch.randn(7, 12), torch.randn(40, 12)
    first = shortlist(queries, database, size=2, count=40)
    exact = shortlist(queries, database, size=12, count=9)
    assert torch.equal(rerank(queries, database, first, sizes=(12,), counts=(40,))[:, :9], exact)


def test_smallest_is_a_stable_sort_cut_short() -> None:
    torch.manual_seed(0)
    values = torch.randint(0, 4, (50, 23)).double()
    for count in (1, 5, 23):
        assert torch.equal(smallest(values, count), values.argsort(dim=1, stable=True)[:, :count])


def test_cascade_is_at_least_as_right_as_its_last_granularity() -> None:
    torch.manual_seed(0)
    label = torch.randint(0, 5, (300,))
    logits = torch.stack([share * 4 * F.one_hot(label, 5) + torch.randn(300, 5) for share in (0.5, 1.0, 1.5)])
    predicted, granularity = predict_in_cascade(logits, learn_thresholds(logits, label))
    assert (predicted == label).sum() >= (logits[-1].argmax(-1) == label).sum()
    assert (granularity < 2).sum() > 0
    assert torch.equal(predicted, logits.argmax(-1).gather(0, granularity[None])[0])


@pytest.mark.parametrize("nesting", [(), (4, 4), (0, 3), (8, 4)])
def test_refuses_prefixes_that_do_not_grow(nesting: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nesting"):
        MatryoshkaHead(nesting, 3)
