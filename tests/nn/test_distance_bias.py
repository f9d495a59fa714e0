"""The bias of two tokens is the table's entry for how far apart they are."""

import torch
from torch import nn

from ommatid.nn.position import DistanceBias


def test_every_pair_reads_its_distance() -> None:
    rows, columns, heads = 3, 4, 2
    bias = DistanceBias((rows, columns), heads)
    nn.init.normal_(bias.table)
    pairs = bias().view(heads, rows, columns, rows, columns)
    for r in range(rows):
        for c in range(columns):
            for other_r in range(rows):
                for other_c in range(columns):
                    entry = abs(r - other_r) * columns + abs(c - other_c)
                    assert torch.equal(pairs[:, r, c, other_r, other_c], bias.table[:, entry])
