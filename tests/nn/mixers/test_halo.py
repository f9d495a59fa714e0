"""Halo attention against a loop over blocks, queries and keys."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.nn.mixers import HaloAttention


def looped(mixer: HaloAttention, x: Tensor, stride: int) -> Tensor:
    """One head at a time, one query at a time; x is (1, H, W, C)."""
    height, width, step = x.shape[1], x.shape[2], mixer.query_stride
    side, block = mixer.block + 2 * mixer.halo, mixer.block // step
    query = mixer.query(x)[0, ::step, ::step].unflatten(-1, (mixer.heads, -1))
    padded = F.pad(mixer.key_value(x)[0], (0, 0) + (mixer.halo,) * 4).unflatten(-1, (mixer.heads, -1))
    output = torch.zeros(height // step, width // step, mixer.heads, mixer.widths[1])
    for row in range(height // step):
        for column in range(width // step):
            top, left = row // block * mixer.block, column // block * mixer.block
            window = padded[top : top + side, left : left + side]
            for head in range(mixer.heads):
                asked, (key, value) = query[row, column, head], window[:, :, head].split(mixer.widths, dim=-1)
                down = mixer.positions.rows[side - 1 - row % block :][:side] @ asked
                across = mixer.positions.columns[side - 1 - column % block :][:side] @ asked
                scores = key @ asked * mixer.widths[0] ** -0.5 + down[:, None] + across[None, :]
                output[row, column, head] = scores.flatten().softmax(0) @ value.flatten(0, 1)
    averaged = F.avg_pool2d(output.flatten(2).permute(2, 0, 1), stride // step).permute(1, 2, 0)
    return averaged[None]


@pytest.mark.parametrize(
    ("block", "halo", "stride", "head_dim"), [(2, 1, 1, None), (4, 2, 2, 3), (3, 1, 2, 5), (3, 0, 1, None)]
)
def test_matches_a_plain_loop(block: int, halo: int, stride: int, head_dim: int | None) -> None:
    torch.manual_seed(0)
    mixer = HaloAttention(8, 2, block, halo, head_dim=head_dim, stride=stride)
    x = torch.randn(1, 2 * block, 4 * block, 8)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), looped(mixer, x, stride), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("block", "stride", "whole"), [(4, 1, (8, 8)), (3, 2, (12, 6))])
def test_maps_that_are_no_whole_blocks_are_continued_with_zeros(
    block: int, stride: int, whole: tuple[int, int]
) -> None:
    mixer, x = HaloAttention(8, 2, block, 1, stride=stride), torch.randn(1, 8, 6, 8)
    continued = F.pad(x, (0, 0, 0, whole[1] - 6, 0, whole[0] - 8))
    torch.testing.assert_close(mixer(x), mixer(continued)[:, : 8 // stride, : 6 // stride])
