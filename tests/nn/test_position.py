"""Positions: biases depend on the offset alone, tables follow the map, and what is constant folds."""

import math

import pytest
import torch
from torch import nn

from ommatid.nn.deploy import deployed_copy
from ommatid.nn.position import (
    AbsolutePosition,
    ConvPosition,
    GeneratedPositionBias,
    dynamic_bias,
    log_spaced_bias,
    relative_index,
    relative_offsets,
)

WINDOW = (3, 4)
BIASES = [log_spaced_bias(WINDOW, 2), dynamic_bias(WINDOW, 2, 8)]


def test_offsets_are_listed_as_the_index_counts_them() -> None:
    offsets = relative_offsets(WINDOW)[relative_index(WINDOW)]
    row, column = (x.flatten() for x in torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij"))
    assert torch.equal(offsets[..., 0], row[:, None] - row)
    assert torch.equal(offsets[..., 1], column[:, None] - column)


@pytest.mark.parametrize("bias", BIASES, ids=["log-spaced", "dynamic"])
def test_generated_bias_is_the_network_at_the_offset(bias: GeneratedPositionBias) -> None:
    values = bias()
    assert values.shape == (2, 12, 12)
    query, key = 7, 2  # (1, 3) and (0, 2): one row down, one column right
    row = (1 + 2) * 7 + (1 + 3)
    torch.testing.assert_close(values[:, query, key], bias.network(bias.offsets[row]))


@pytest.mark.parametrize("bias", BIASES, ids=["log-spaced", "dynamic"])
def test_generated_bias_is_computed_once_when_deployed(bias: GeneratedPositionBias) -> None:
    deployed = deployed_copy(bias)
    assert torch.equal(deployed(), bias())
    deployed.network = nn.Identity()
    assert torch.equal(deployed(), bias())


def test_log_spaced_offsets_reach_the_same_ends_in_every_window() -> None:
    ends = math.log2(9) / 3
    for side in (2, 8, 24):
        offsets = log_spaced_bias((side, side), 1).offsets
        assert offsets.min().item() == pytest.approx(-ends)
        assert offsets.max().item() == pytest.approx(ends)
    assert log_spaced_bias((1, 1), 1).offsets.tolist() == [[0, 0]]


def test_log_spaced_offsets_go_past_the_window_of_the_training() -> None:
    offsets = log_spaced_bias((5, 5), 1, trained_window=(3, 3)).offsets
    assert offsets.max().item() == pytest.approx(math.log2(17) / 3)


def test_log_spaced_bias_stays_between_0_and_16() -> None:
    bias = log_spaced_bias(WINDOW, 2)
    nn.init.normal_(bias.network[2].weight, std=100)
    assert bias().min() >= 0
    assert bias().max() <= 16


def test_absolute_positions_follow_the_map() -> None:
    position = AbsolutePosition((4, 6), 3)
    x = torch.randn(2, 4, 6, 3)
    torch.testing.assert_close(position(x) - x, position.table.expand_as(x))
    nn.init.constant_(position.table, 2)
    x = torch.randn(2, 7, 5, 3)
    torch.testing.assert_close(position(x), x + 2)


def test_convolutional_position_folds_its_own_input() -> None:
    position = ConvPosition(5)
    x = torch.randn(2, 6, 7, 5)
    deployed = deployed_copy(position)
    torch.testing.assert_close(deployed(x), position(x))
    torch.testing.assert_close(deployed(x), deployed.conv(x))
