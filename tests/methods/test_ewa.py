"""Experts weights averaging: random parts, averaging, and the dense network that is left."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.ewa import RandomExperts, average_experts_, share_rate_at, to_dense, train_as_experts
from ommatid.nn.feedforward import MLP


@pytest.mark.parametrize(("tokens", "experts"), [(12, 4), (13, 4), (15, 4), (3, 5), (7, 1)])
def test_each_token_is_answered_by_the_expert_of_its_part(tokens: int, experts: int) -> None:
    torch.manual_seed(0)
    mlps = [MLP(6, 10) for _ in range(experts)]
    x, noise = torch.randn(tokens, 6), torch.rand(tokens)
    answers, assignment = RandomExperts(mlps).partitioned(x, noise)
    sizes = [tokens // experts + (index < tokens % experts) for index in range(experts)]
    for expert, part in enumerate(noise.argsort().split(sizes)):
        assert (assignment[part] == expert).all()
        torch.testing.assert_close(answers[part], mlps[expert](x[part]))


def vit(depth: int = 3) -> ommatid.models.Backbone:
    torch.manual_seed(0)
    return ommatid.create_model("vit", image_size=8, patch_size=4, dim=8, depth=depth, heads=2, num_classes=3)


def test_experts_from_a_trained_mlp_answer_as_it_does() -> None:
    model, image = vit(), torch.rand(2, 3, 8, 8)
    expected = model(image)
    train_as_experts(model, experts=3, every=2, pretrained=True)
    assert sum(isinstance(module, RandomExperts) for module in model.modules()) == 2
    torch.testing.assert_close(model(image), expected)


def test_training_ends_in_the_dense_model_that_validation_saw() -> None:
    model, image = vit(), torch.rand(4, 3, 8, 8)
    names = model.state_dict().keys()
    train_as_experts(model, experts=3, every=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        model(image).square().sum().backward()
        optimizer.step()
        average_experts_(model, share_rate_at(step, 3, 0.3))
    dense = to_dense(model).eval()
    assert dense.state_dict().keys() == names
    torch.testing.assert_close(dense(image), model.eval()(image))


def test_averaging_keeps_the_mean_and_can_make_all_equal() -> None:
    torch.manual_seed(0)
    experts = RandomExperts(MLP(6, 10) for _ in range(4))
    before = [parameter.mean(0) for parameter in experts.parameters()]
    average_experts_(experts, 0.3)
    for parameter, mean in zip(experts.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.mean(0), mean)
    average_experts_(experts, 0.75)
    assert experts.experts.get_parameter("fc1.weight").std(0).max() < 1e-6


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share_rate = 0.8 .* from 0 to 0.75 with 4 experts"):
        average_experts_(RandomExperts(MLP(6, 10) for _ in range(4)), 0.8)
    with pytest.raises(ValueError, match="no plain MLP"):
        train_as_experts(torch.nn.Linear(3, 3))
