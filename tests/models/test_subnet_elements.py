"""A sub-network's pieces have what it has."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from ommatid.measuring.measure import count_macs
from ommatid.measuring.part_costs import CostTable
from ommatid.methods.progressive_shrinking import random_setting
from ommatid.models.elements import elements, whole
from ommatid.models.subnet_elements import SizedSubnet
from ommatid.models.subnets import OnceForAllConfig

SMALL = OnceForAllConfig(width_mult=0.25, num_classes=4, depths=(1, 2))


def test_pieces_have_all_parameters_and_multiply_adds_and_follow_each_other(tmp_path: Path) -> None:
    setting = random_setting(SMALL, random.Random(1))
    shape = {f"active_{name}": value for name, value in setting._asdict().items()}
    subnet = SizedSubnet(SMALL.replace(function="subnet", **shape), 44)
    model, (rows, columns, channels) = whole(subnet)
    table = CostTable(tmp_path / "table.json", threads=1)
    assert table.parameters(subnet) == sum(parameter.numel() for parameter in model.parameters())
    assert table.multiply_adds(subnet) == count_macs(model.eval(), torch.rand(1, channels, rows, columns))
    features = torch.rand(2, rows, columns, channels)
    for piece in elements(subnet):
        assert features.shape[1:] == piece.size, piece.key
        features = piece.build().eval()(features)
    assert features.shape == (2, 4)
