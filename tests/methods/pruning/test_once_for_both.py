"""A search that closes options, shrinks the network and ends in one that answers the same without scores."""

from __future__ import annotations

import torch

from ommatid.methods.pruning.once_for_both.choice import Choice
from ommatid.methods.pruning.once_for_both.model import SearchViT
from ommatid.methods.pruning.once_for_both.modules import SearchMLP


def tiny_search() -> SearchViT:
    torch.manual_seed(0)
    return SearchViT(grid=4, patch_size=8, dim=40, depth=2, heads=5, hidden=84, num_classes=10)


def sharpen(model: SearchViT) -> None:
    with torch.no_grad():
        for module in model.searchables():
            module.choice.alpha.mul_(1.5)


def test_a_threshold_of_zero_closes_nothing() -> None:
    model, image = tiny_search().eval(), torch.rand(2, 3, 32, 32)
    before = model(image)
    model.compress(0.0)
    assert torch.equal(model(image), before)


def test_the_search_ends_and_the_network_has_shrunk() -> None:
    model, image = tiny_search(), torch.rand(2, 3, 32, 32)
    model.weigh_importance(0.1)
    dense = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(30):
        sharpen(model)
        optimizer.zero_grad()
        model(image).square().sum().backward()
        optimizer.step()
        model.compress(0.4, optimizer)
    assert all(module.choice.finished for module in model.searchables())
    assert sum(parameter.numel() for parameter in model.parameters()) < dense / 2
    assert model.gflops() < model.dense_gflops
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}
    for parameter, state in optimizer.state.items():
        assert state["exp_avg"].shape == parameter.shape


def test_fusing_does_not_change_a_finished_part() -> None:
    torch.manual_seed(0)
    part, x = SearchMLP(8, 32), torch.rand(2, 5, 8)
    with torch.no_grad():
        part.choice.alpha[0, 2] = 20.0
    part.compress(0.5)
    before = part(x)
    assert part.choice.finished
    assert part.fc1.out_features == 16
    torch.testing.assert_close(part.fuse()(x), before)


def test_one_hot_and_no_importance_is_the_pruned_part() -> None:
    choice = Choice([1], [2, 4], (1, 4))
    with torch.no_grad():
        choice.alpha.copy_(torch.tensor([[50.0, -50.0]]))
        choice.score.copy_(torch.tensor([[0.1, 0.9, -1.0, 0.5]]))
    torch.testing.assert_close(choice.multiplier(0.0), torch.tensor([[0.0, 1.0, 0.0, 1.0]]))
