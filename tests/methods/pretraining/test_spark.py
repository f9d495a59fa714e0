"""SparK's maps stay empty where nothing is shown, and are those of the dense network where everything is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.pretraining.spark import SparK, active_patches
from ommatid.nn.norm import BatchNorm2d

CONVNEXT = ("convnext", {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "layer_scale": 1.0})
RESNET = ("ibn_net", {"dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "ibn": (None,) * 4})


@pytest.fixture(params=[CONVNEXT, RESNET], ids=["convnext", "resnet"])
def dense(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    name, sizes = request.param
    return ommatid.create_model(name, num_classes=0, **sizes)


def test_all_active_is_the_dense_network(dense: nn.Module) -> None:
    image = torch.rand(2, 3, 64, 64)
    learner = SparK(copy.deepcopy(dense), width=32)
    for expected, found in zip(dense.maps(image), learner.maps(image, torch.ones(2, 2, 2).bool()), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_is_hidden_is_neither_seen_nor_written(dense: nn.Module) -> None:
    learner, image = SparK(dense, width=32).eval(), torch.rand(2, 3, 64, 64)
    active = active_patches(torch.rand(2, 4), 0.6).unflatten(1, (2, 2))
    pixels = active.repeat_interleave(32, 1).repeat_interleave(32, 2).unsqueeze(1)
    other = image.masked_fill(~pixels, 3.0)
    assert torch.equal(learner(image, active), learner(other, active))
    for features in learner.maps(image, active):
        cells = active.repeat_interleave(features.shape[1] // 2, 1).repeat_interleave(features.shape[1] // 2, 2)
        assert (features[~cells] == 0).all()
        assert (features[cells] != 0).any()


def test_the_network_is_trained_in_place_and_keeps_its_names(dense: nn.Module) -> None:
    fresh = copy.deepcopy(dense)
    learner = SparK(dense, width=32)
    learner.loss(torch.rand(2, 3, 64, 64), torch.tensor([[[1, 0], [0, 0]], [[0, 1], [1, 0]]]).bool()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in learner.parameters())
    fresh.load_state_dict(dense.state_dict())
    torch.testing.assert_close(fresh.eval()(torch.ones(1, 3, 64, 64)), dense.eval()(torch.ones(1, 3, 64, 64)))


def test_a_copy_has_active_cells_of_its_own(dense: nn.Module) -> None:
    learner = SparK(dense, width=32)
    copied, some = copy.deepcopy(learner).eval(), torch.tensor([[[1, 0], [0, 0]]]).bool()
    assert copied.active is not learner.active
    assert (copied.maps(torch.rand(1, 3, 64, 64), some)[-1][:, 1] == 0).all()
    assert not any(isinstance(layer, BatchNorm2d) for layer in copied.stages.modules())
