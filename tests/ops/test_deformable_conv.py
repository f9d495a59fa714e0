"""Deformable convolution against that of torchvision, and against an ordinary one where nothing is moved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from ommatid.ops.deformable_conv import deformable_conv


def test_agrees_with_torchvision_in_value_and_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7, 6, dtype=torch.float64, requires_grad=True)
    offsets = (2 * torch.randn(2, 5, 7, 9, 2)).double().requires_grad_()
    weights = torch.rand(2, 5, 7, 9, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 6, 3, 3, dtype=torch.float64, requires_grad=True)
    inputs = (x, offsets, weights, kernel)
    mine = deformable_conv(*inputs)
    theirs = deform_conv2d(
        x.permute(0, 3, 1, 2),
        offsets.flatten(3).permute(0, 3, 1, 2),
        kernel,
        padding=1,
        mask=weights.permute(0, 3, 1, 2),
    ).permute(0, 2, 3, 1)
    assert torch.allclose(mine, theirs, atol=1e-5)
    gradients = [torch.autograd.grad(answer.square().sum(), inputs) for answer in (mine, theirs)]
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-3) for one, other in zip(*gradients, strict=True))


def test_unmoved_it_is_an_ordinary_convolution() -> None:
    x, kernel = torch.randn(1, 6, 5, 3), torch.randn(2, 3, 3, 3)
    mine = deformable_conv(x, torch.zeros(1, 6, 5, 9, 2), torch.ones(1, 6, 5, 9), kernel)
    ordinary = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1).permute(0, 2, 3, 1)
    assert torch.allclose(mine, ordinary, atol=1e-5)
