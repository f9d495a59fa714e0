"""Convolutions on maps give what PyTorch's give, gradients included."""

import pytest
import torch
from torch import nn

from ommatid.nn.conv import Conv2d


@pytest.mark.parametrize("width", [4, 16, 24])
@pytest.mark.parametrize("stride", [1, 2, (2, 3)])
def test_strided_pointwise_convolutions_are_pytorchs(width: int, stride: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours, theirs = Conv2d(width, 8, 1, stride=stride), nn.Conv2d(width, 8, 1, stride=stride)
    theirs.load_state_dict(ours.state_dict())
    features = torch.randn(2, 9, 10, width, requires_grad=True)
    # PyTorch's own on contiguous channels-first maps, whose gradient is not broken.
    image = features.detach().permute(0, 3, 1, 2).contiguous().requires_grad_()
    answer, expected = ours(features).permute(0, 3, 1, 2), theirs(image)
    assert torch.allclose(answer, expected, atol=1e-6)
    answer.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(features.grad.permute(0, 3, 1, 2), image.grad, atol=1e-5)
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, atol=1e-4)
