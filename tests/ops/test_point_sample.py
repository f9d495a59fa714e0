"""Reading masks at points, and pairing."""

import torch

from ommatid.ops.matching import hungarian
from ommatid.ops.point_sample import point_sample, uncertain_points


def test_points_at_cell_centres_give_the_cells() -> None:
    masks = torch.randn(2, 4, 5)
    y, x = torch.meshgrid((torch.arange(4) + 0.5) / 4, (torch.arange(5) + 0.5) / 5, indexing="ij")
    points = torch.stack([x, y], dim=-1).flatten(0, 1).expand(2, -1, -1)
    torch.testing.assert_close(point_sample(masks, points), masks.flatten(1))


def test_most_points_are_where_the_mask_is_uncertain() -> None:
    torch.manual_seed(0)
    logits = torch.linspace(-10, 10, 64).expand(1, 64, 64)
    points = uncertain_points(logits, 400)
    assert points.shape == (1, 400, 2)
    near = (points[0, :, 0] - 0.5).abs() < 0.15
    assert near.float().mean() > 0.6


def test_pairs_cost_the_least_together() -> None:
    cost = torch.tensor([[4.0, 1.0], [2.0, 0.0], [3.0, float("nan")]])
    rows, columns = hungarian(cost)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(0, 1), (1, 0)]
