import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.nn.mixers.factorization import FactorizationAttention, averaged_windows, tiled_positions


def window_by_window(source: Tensor, heads: int, dilation: int) -> Tensor:
    """`averaged_windows` as its specification says it, in loops, with the map padded by reflection."""
    batch, height, width, channels = source.shape
    span, head_dim = dilation * 6 + 1, channels // heads
    padding = (0, -width % span, 0, -height % span)
    padded = F.pad(source.permute(0, 3, 1, 2), padding, mode="reflect").unflatten(1, (heads, head_dim))
    corners = [(y, x) for y in range(0, padded.shape[3], span) for x in range(0, padded.shape[4], span)]
    averages = torch.empty(batch, 49, heads, head_dim)
    for row in range(7):
        for column in range(7):
            values = [padded[..., y + row * dilation, x + column * dilation] for y, x in corners]
            flat = torch.cat(values, dim=-1)
            averages[:, 7 * row + column] = torch.stack(flat.split(len(corners), -1), -2).mean(-1)
    return averages


@pytest.mark.parametrize(("dilation", "size"), [(1, (9, 16)), (1, (4, 7)), (2, (20, 13)), (4, (28, 60))])
def test_averages_all_windows(dilation: int, size: tuple[int, int]) -> None:
    source = torch.randn(2, *size, 12)
    torch.testing.assert_close(averaged_windows(source, 3, dilation), window_by_window(source, 3, dilation))


@pytest.mark.parametrize("side", [1, 2, 3, 10])
def test_short_maps_are_reflected_as_often_as_it_takes(side: int) -> None:
    positions = tiled_positions(side, 8)
    reflected = np.pad(np.arange(side), (0, 49 - side), mode="reflect" if side > 1 else "edge")
    assert positions.tolist() == reflected[::8].tolist()


def test_a_map_too_small_to_be_reduced_is_refused() -> None:
    mixer = FactorizationAttention(32, 2, 4)
    assert mixer(torch.randn(1, 4, 5, 32)).shape == (1, 4, 5, 32)
    with pytest.raises(ValueError, match="at least 4 a side"):
        mixer(torch.randn(1, 4, 3, 32))
