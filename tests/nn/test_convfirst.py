"""Tile by tile, a block answers as it does layer by layer."""

import pytest
import torch
from torch import nn

import ommatid
from ommatid.nn.waterline import ConvShape, attainable


@pytest.mark.parametrize("block", ["convfirst", "mbconv"])
@pytest.mark.parametrize(("stride", "kernel_size", "tile"), [(1, 3, 4), (2, 5, 3), (1, 7, 100), (3, 3, 2)])
def test_tiles_give_the_same_answer(block: str, stride: int, kernel_size: int, tile: int) -> None:
    torch.manual_seed(0)
    sizes = {"in_channels": 8, "out_channels": 8, "group_width": 4, "expansion": 2}
    model = ommatid.create_model(
        "convfirst", block=block, stride=stride, kernel_size=kernel_size, tile=tile, **sizes
    ).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias)
    image = torch.randn(2, 8, 11, 14)
    with torch.no_grad():
        assert torch.allclose(model.forward_in_tiles(image), model(image), atol=1e-5)


def test_fusion_never_costs_and_without_a_memory_limit_everything_is_efficient() -> None:
    layers = [ConvShape(8, 8, (9, 9), (9, 9), 3, 8), ConvShape(8, 32, (9, 9), (9, 9)), ConvShape(32, 8, (9, 9), (9, 9))]
    found = attainable(layers, batch=2, element=2, peak=1e12, bandwidth=1e10)
    assert found.ideal <= found.fused <= found.layer_by_layer
    unlimited = attainable(layers, batch=2, element=2, peak=1e12, bandwidth=1e30)
    assert unlimited.layer_efficiency == [1.0] * 3
    assert unlimited.fused == unlimited.ideal
