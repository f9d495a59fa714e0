"""Pooling with TensorFlow's "SAME" windows, against what each window holds."""

import pytest
import torch

from ommatid.nn.pool import SameAvgPool2d, SameMaxPool2d


def window_sums_and_maxima(row: list[float], kernel: int, stride: int) -> tuple[list[float], list[float]]:
    """By hand in one dimension: the last window may reach past the end, the first before the start."""
    cells = -(-len(row) // stride)
    before = max((cells - 1) * stride + kernel - len(row), 0) // 2
    windows = [row[max(i * stride - before, 0) : i * stride - before + kernel] for i in range(cells)]
    return [sum(window) for window in windows], [max(window) for window in windows]


@pytest.mark.parametrize("length", [1, 2, 5, 6, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (3, 1), (5, 2)])
def test_same_pooling_reads_the_right_windows(length: int, kernel: int, stride: int) -> None:
    row = [-1.0 - i * i % 7 for i in range(length)]
    sums, maxima = window_sums_and_maxima(row, kernel, stride)
    features = torch.tensor(row).view(1, 1, length, 1).expand(1, length, length, 1)
    pooled = SameMaxPool2d(kernel, stride=stride)(features)
    assert pooled.shape == (1, len(maxima), len(maxima), 1)
    assert pooled[0, 0, :, 0].tolist() == maxima
    averaged = SameAvgPool2d(kernel, stride=stride)(features)
    counts, _ = window_sums_and_maxima([1.0] * length, kernel, stride)
    expected = torch.tensor(counts).view(-1, 1) * torch.tensor(sums).view(1, -1) / kernel**2
    torch.testing.assert_close(averaged[0, :, :, 0], expected)
