"""Meta networks beside a frozen one: what they leave as it is, and what each learns from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.adaptation.ecotta import (
    EcoTTA,
    PooledClassifier,
    adapt,
    cut,
    reliable_entropy,
    warm_up_rate,
    with_meta_networks,
)


@pytest.fixture
def adapted() -> EcoTTA:
    torch.manual_seed(0)
    network = ommatid.create_model(
        "ibn_net", block="basic", dims=(4, 8), depths=(2, 1), ibn=(None, None), num_classes=5
    )
    blocks = [block for stage in network.stages for block in stage]
    classifier = PooledClassifier(8, 5)
    return with_meta_networks(network.stem, cut(blocks, (1, 2)), classifier, torch.rand(1, 3, 32, 48))


def test_widths_and_strides_are_found(adapted: EcoTTA) -> None:
    assert [tuple(part.branch.conv.weight.shape[:2]) for part in adapted.parts] == [(4, 4), (8, 4)]
    assert [part.branch.conv.stride for part in adapted.parts] == [(1, 1), (2, 2)]
    assert adapted(torch.rand(2, 3, 19, 33)).shape == (2, 5)


def test_nothing_changes_where_the_norm_undoes_itself_and_the_branch_is_silent(adapted: EcoTTA) -> None:
    adapted.eval()
    for part in adapted.parts:
        nn.init.zeros_(part.branch.norm.weight)
        nn.init.constant_(part.norm.weight, (1 + part.norm.eps) ** 0.5)
    image = torch.rand(2, 3, 32, 32)
    expected = adapted.stem(image.permute(0, 2, 3, 1))
    for part in adapted.parts:
        expected = part.original(expected)
    torch.testing.assert_close(adapted(image), adapted.classifier(expected))
    assert all(term < 1e-6 for term in adapted.regularisation(image))


def test_each_term_trains_its_own_meta_network(adapted: EcoTTA) -> None:
    for index, term in enumerate(adapted.regularisation(torch.rand(2, 3, 32, 32))):
        adapted.zero_grad()
        term.backward()
        reached = {name.split(".")[1] for name, value in adapted.named_parameters() if value.grad is not None}
        assert reached == {str(index)}


@pytest.mark.parametrize("joint", [False, True])
def test_adaptation_makes_answers_surer_and_leaves_the_frozen_network(adapted: EcoTTA, joint: bool) -> None:
    image = torch.rand(8, 3, 32, 32)
    before = {name: value.clone() for name, value in adapted.named_parameters()}
    answers = list(adapt(adapted, [image] * 12, margin=1.0, reg_weight=0.1, learning_rate=0.05, joint=joint))
    assert reliable_entropy(answers[-1], margin=1.0) < reliable_entropy(answers[0], margin=1.0)
    for name, value in adapted.named_parameters():
        assert value.requires_grad != torch.equal(value, before[name]), name


def test_unsure_samples_do_not_count() -> None:
    logits = torch.tensor([[9.0, 0, 0], [0.0, 0, 0]])
    assert reliable_entropy(logits) == reliable_entropy(logits[:1])
    assert reliable_entropy(logits[1:]) == 0


def test_rate_rises_for_an_epoch_and_falls_three_times() -> None:
    assert [round(warm_up_rate(epoch), 5) for epoch in (0.5, 1, 3, 6, 8)] == [0.025, 0.05, 0.01, 0.002, 0.0004]


def test_refuses_parts_of_other_sizes() -> None:
    with pytest.raises(ValueError, match="sizes"):
        cut([nn.Identity()] * 3, (2, 2))
