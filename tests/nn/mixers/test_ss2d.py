import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.nn.mixers.ss2d import MultiScaleScan
from ommatid.nn.selective_scan import SelectiveScan
from ommatid.ops.selective_scan import selective_scan_reference

HEIGHT, WIDTH, CHANNELS = 5, 4, 6

# By the number of fine directions, as the paper's code orders them: (column-major, reversed) of each.
ROW, COLUMN, REVERSED_ROW, REVERSED_COLUMN = (False, False), (True, False), (False, True), (True, True)
FINE = {1: [ROW], 2: [ROW, COLUMN], 3: [ROW, COLUMN, REVERSED_ROW]}
COARSE = {
    1: [REVERSED_ROW, COLUMN, REVERSED_COLUMN],
    2: [REVERSED_ROW, REVERSED_COLUMN],
    3: [REVERSED_COLUMN],
}


def positions(height: int, width: int, by_column: bool, backwards: bool) -> list[tuple[int, int]]:
    if by_column:
        visited = [(row, column) for column in range(width) for row in range(height)]
    else:
        visited = [(row, column) for row in range(height) for column in range(width)]
    return visited[::-1] if backwards else visited


def scan_one(ssm: SelectiveScan, index: int, sequence: Tensor) -> Tensor:
    """(B, L, E) -> the same, with one parameter set, by the equations."""
    rank, size, _ = ssm.split
    low_rank, write, read = (sequence @ ssm.x_proj[index].T).split([rank, size, size], dim=-1)
    delta = F.softplus(low_rank @ ssm.dt_proj[index].T + ssm.dt_bias[index])
    one = (x[:, None] for x in (sequence, delta))
    decay, direct = -ssm.A_log[index : index + 1].exp(), ssm.D[index : index + 1]
    return selective_scan_reference(*one, decay, write[:, None], read[:, None], direct)[:, 0]


@pytest.mark.parametrize("fine", [1, 2, 3])
@torch.no_grad()
def test_multi_scale_scan_follows_its_equations(fine):
    torch.manual_seed(fine)
    part = MultiScaleScan(CHANNELS, fine=fine, state_dim=3, dt_rank=2)
    torch.nn.init.normal_(part.norm.weight)
    x = torch.randn(2, HEIGHT, WIDTH, CHANNELS)

    whole = F.silu(part.conv(x))
    summed = torch.zeros_like(whole)
    for index, order in enumerate(FINE[fine]):
        visited = positions(HEIGHT, WIDTH, *order)
        output = scan_one(part.fine_ssm, index, torch.stack([whole[:, i, j] for i, j in visited], dim=1))
        for t, (i, j) in enumerate(visited):
            summed[:, i, j] += output[:, t]

    half = F.silu(part.coarse_conv(x))
    visited = [place for order in COARSE[fine] for place in positions(half.shape[1], half.shape[2], *order)]
    joined = torch.stack([half[:, i, j] for i, j in visited], dim=1)
    normed = part.norm(scan_one(part.coarse_ssm, 0, joined))
    coarse = torch.zeros_like(half)
    for t, (i, j) in enumerate(visited):
        coarse[:, i, j] += normed[:, t]
    enlarged = F.interpolate(coarse.permute(0, 3, 1, 2), size=(HEIGHT, WIDTH), mode="bilinear").permute(0, 2, 3, 1)
    torch.testing.assert_close(part(x), part.norm(summed) + enlarged, rtol=1e-4, atol=1e-5)
