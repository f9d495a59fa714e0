"""Layers of a guide: which are found, which meet which, and what their likeness does not see."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.distillation.guidance import dissimilarities, layer_map, layer_outputs
from ommatid.nn.feedforward import MLP
from ommatid.nn.mixers import Attention
from ommatid.ops.similarity import linear_cka, rsa


def test_similarity_does_not_see_where_how_turned_and_how_large() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 5)
    turn, _ = torch.linalg.qr(torch.randn(5, 5))
    assert linear_cka(x, 3 * x @ turn + torch.randn(5)).item() == pytest.approx(1, abs=1e-5)
    assert rsa(x, 3 * x @ turn).item() == pytest.approx(1, abs=1e-5)


def test_every_position_is_compared_by_itself() -> None:
    x, y = torch.randn(3, 6, 4), torch.randn(3, 6, 7)
    assert torch.equal(linear_cka(x, y)[1], linear_cka(x[1], y[1]))


def test_a_network_is_its_own_best_guide() -> None:
    model, image = (
        ommatid.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)),
        torch.rand(4, 3, 32, 32),
    )
    _, layers = layer_outputs(model, image)
    assert len(layers) > 8
    assert dissimilarities(layers, layers).sum() < 1e-3


def test_branches_of_a_transformer_can_be_chosen() -> None:
    model = ommatid.create_model("vit", image_size=16, patch_size=8, dim=8, depth=3, heads=2, num_classes=4)
    answer, layers = layer_outputs(
        model, torch.rand(2, 3, 16, 16), chosen=lambda module: isinstance(module, Attention | MLP)
    )
    assert answer.shape == (2, 4)
    assert [tuple(layer.shape) for layer in layers[:4]] == [(2, 40)] * 4


def test_sequences_come_batch_first_and_without_their_state() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=False), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.lstm(x.transpose(0, 1))[0][-1])

    _, layers = layer_outputs(Reader(), torch.randn(5, 7, 3))
    assert [tuple(layer.shape) for layer in layers] == [(5, 28)]


def test_last_guide_layer_wins_where_several_meet() -> None:
    assert layer_map(5, 5) == [0, 1, 2, 3, 4]
    assert layer_map(1, 4) == [0]
    guide, target = [torch.randn(6, 3) for _ in range(5)], [torch.randn(6, 4) for _ in range(2)]
    found = dissimilarities(target, guide)
    assert layer_map(5, 2) == [0, 0, 0, 1, 1]
    expected = torch.stack([1 - linear_cka(target[0], guide[2]), 1 - linear_cka(target[1], guide[4])])
    torch.testing.assert_close(found, expected)
