import math

import pytest
import torch

from ommatid.ops.dct import dct, idct


@pytest.mark.parametrize("length", [1, 2, 5, 8, 24])
def test_is_the_sum_that_defines_it_and_is_undone(length: int) -> None:
    x = torch.randn(2, 3, length, dtype=torch.float64)
    steps = torch.arange(length, dtype=torch.float64)
    matrix = torch.cos(math.pi * steps[:, None] * (2 * steps + 1) / (2 * length)) * (2 / length) ** 0.5
    matrix[0] /= 2**0.5
    torch.testing.assert_close(dct(x), x @ matrix.T)
    torch.testing.assert_close(idct(dct(x)), x)
