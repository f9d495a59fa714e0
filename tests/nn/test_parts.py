"""Parts that families share, each checked on its own."""

import pytest
import torch
from torch import nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import deployed_copy, fold_norm_before_
from ommatid.nn.embed import PatchMerging
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.position import RelativePositionBias
from ommatid.nn.residual import DropPath, Residual, stochastic_depth


def test_stochastic_depth_rises_linearly() -> None:
    assert stochastic_depth(0.3, (2, 2)) == [[0.0, pytest.approx(0.1)], [pytest.approx(0.2), pytest.approx(0.3)]]
    assert stochastic_depth(0.3, (1,)) == [[0.0]]


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(4000, 3, 2))
    per_sample = dropped.flatten(1)
    assert ((per_sample == 0).all(1) | (per_sample - 1 / 0.75).abs().lt(1e-6).all(1)).all()
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(torch.ones(3)), torch.ones(3))


def test_layer_scale_is_folded_into_the_branch() -> None:
    from ommatid.nn.feedforward import MLP

    branch = Residual(8, MLP(8, 16), layer_scale=0.3).eval()
    nn.init.normal_(branch.scale.gamma)
    x = torch.randn(2, 5, 8)
    folded = deployed_copy(branch)
    assert isinstance(folded.scale, nn.Identity)
    torch.testing.assert_close(folded(x), branch(x))


def test_batch_norm_is_folded_into_the_convolution() -> None:
    layer = ConvNorm(4, 6, 3, stride=2)
    for _ in range(3):
        layer(torch.randn(8, 9, 7, 4) * 3 + 1)
    layer.eval()
    x = torch.randn(2, 9, 7, 4)
    folded = deployed_copy(layer)
    assert isinstance(folded.norm, nn.Identity)
    torch.testing.assert_close(folded(x), layer(x))


def test_batch_norm_is_folded_into_the_linear_after_it() -> None:
    norm, linear = nn.BatchNorm1d(5), nn.Linear(5, 3)
    norm(torch.randn(50, 5) * 2 + 3)
    norm.eval()
    x = torch.randn(4, 5)
    expected = linear(norm(x))
    fold_norm_before_(norm, linear)
    torch.testing.assert_close(linear(x), expected)


def test_batch_norm_on_maps_is_that_on_images() -> None:
    x = torch.randn(2, 5, 4, 3)
    expected = nn.BatchNorm2d(3)(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(BatchNorm2d(3)(x), expected)


def test_patch_merging_order_and_odd_sides() -> None:
    merging = PatchMerging(1, 4)
    merging.norm = nn.Identity()
    nn.init.eye_(merging.reduction.weight)
    x = torch.arange(9.0).view(1, 3, 3, 1)
    merged = merging(x)
    assert merged.shape == (1, 2, 2, 4)
    assert merged[0, 0, 0].tolist() == [0, 3, 1, 4]
    assert merged[0, 1, 1].tolist() == [8, 0, 0, 0]


def test_relative_position_bias_depends_on_the_offset_only() -> None:
    bias = RelativePositionBias((3, 4), 2)()
    assert bias.shape == (2, 12, 12)
    by_offset: dict[tuple[int, int], torch.Tensor] = {}
    for query in range(12):
        for key in range(12):
            offset = (query // 4 - key // 4, query % 4 - key % 4)
            value = by_offset.setdefault(offset, bias[:, query, key])
            assert torch.equal(value, bias[:, query, key])
    assert len({tuple(value.tolist()) for value in by_offset.values()}) == 5 * 7
