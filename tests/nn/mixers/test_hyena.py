import pytest
import torch

from ommatid.nn.mixers import Hyena2d
from ommatid.nn.mixers.hyena import convolved

DIM, SIDE = 4, 6


def test_convolution_reads_what_is_above_and_to_the_left() -> None:
    torch.manual_seed(0)
    x, kernel, skip = torch.randn(2, DIM, 5, 3), torch.randn(DIM, SIDE, SIDE), torch.randn(DIM)
    expected = skip[:, None, None] * x
    for row in range(5):
        for column in range(3):
            for up in range(row + 1):
                for left in range(column + 1):
                    gain = kernel[:, up, left] / (2 * SIDE)
                    expected[..., row, column] += gain * x[..., row - up, column - left]
    torch.testing.assert_close(convolved(x, kernel, skip), expected)


@pytest.mark.parametrize(
    ("direction", "order", "seen"),
    [("standard", 2, 1), ("alternate", 2, 1), ("alternate", 3, 4), ("four", 2, 4), ("four_mixed", 2, 4)],
)
def test_directions_say_how_many_corners_of_the_map_are_seen(direction: str, order: int, seen: int) -> None:
    torch.manual_seed(0)
    mixer = Hyena2d(DIM, (8, 8), order=order, filter="direct", direction=direction).double()
    x = torch.randn(1, 8, 8, DIM, requires_grad=True, dtype=torch.float64)
    mixer(x)[0, 4, 4].sum().backward()
    strength = x.grad[0].abs().amax(-1)
    corners = [
        strength[rows, columns].amax() for rows in (slice(2), slice(6, 8)) for columns in (slice(2), slice(6, 8))
    ]
    assert sum(corner > 1e-10 for corner in corners) == seen


@pytest.mark.parametrize(
    "options", [{"filter": "joint", "window": "learned", "sqrt_decay": True}, {"filter": "direct"}]
)
def test_filters_of_one_map_serve_others(options: dict) -> None:
    mixer = Hyena2d(DIM, (SIDE, SIDE), **options)
    for size in [(3, 9), (1, 1), (8, 2)]:
        mixed = mixer(torch.randn(2, *size, DIM))
        assert mixed.shape == (2, *size, DIM)
        assert torch.isfinite(mixed).all()
