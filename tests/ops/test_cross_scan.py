import pytest
import torch

from ommatid.ops.cross_scan import cross_merge, cross_scan

DIRECTIONS = ("right", "down", "left", "up")


def test_directions_read_rows_and_columns_both_ways():
    features = torch.tensor([[1, 2, 3], [4, 5, 6]])[None, ..., None]
    expected = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 4, 2, 5, 3, 6], [6, 5, 4, 3, 2, 1], [6, 3, 5, 2, 4, 1]])
    assert torch.equal(cross_scan(features, DIRECTIONS)[0, ..., 0], expected)


@pytest.mark.parametrize("directions", [("right",), ("up",), ("left", "down", "up"), DIRECTIONS])
def test_merge_puts_every_direction_back(directions):
    features = torch.randn(2, 5, 3, 4)
    merged = cross_merge(cross_scan(features, directions), (5, 3), directions)
    torch.testing.assert_close(merged, len(directions) * features)
    assert merged.is_contiguous()
