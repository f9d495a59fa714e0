"""Bilinear sampling against PyTorch's, and against torchvision's deformable convolution."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from ommatid.ops.bilinear import sample_bilinear, sample_bilinear_reference


def positions_around(size: tuple[int, int], *, spread: float) -> torch.Tensor:
    """(2, 5, 6, 2) positions in a map and beyond its borders."""
    torch.manual_seed(0)
    return torch.rand(2, 5, 6, 2) * (torch.tensor(size) - 1 + 2 * spread) - spread


@pytest.mark.parametrize("size", [(7, 9), (2, 3)])
def test_values_and_gradients_are_those_of_the_reference(size: tuple[int, int]) -> None:
    features = torch.randn(2, *size, 4, dtype=torch.float64)
    positions = positions_around(size, spread=2.5).double()
    results = []
    for sample in (sample_bilinear, sample_bilinear_reference):
        inputs = [features.clone().requires_grad_(), positions.clone().requires_grad_()]
        output = sample(*inputs)
        results.append([output, *torch.autograd.grad(output.sin().sum(), inputs)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


def test_cells_themselves_are_exact() -> None:
    features = torch.randn(1, 4, 5, 3)
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij"), dim=-1)
    assert torch.equal(sample_bilinear(features, grid[None]), features)
    assert sample_bilinear(features, grid[None] + 5).eq(0).all()


def test_one_tap_of_a_deformable_convolution() -> None:
    features, positions = torch.randn(2, 5, 6, 4), positions_around((5, 6), spread=1.5)
    grid = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij"), dim=-1)
    offsets = (positions - grid).permute(0, 3, 1, 2).contiguous()
    expected = deform_conv2d(features.permute(0, 3, 1, 2).contiguous(), offsets, torch.eye(4)[:, :, None, None])
    torch.testing.assert_close(sample_bilinear(features, positions), expected.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_close() -> None:
    features, positions = torch.randn(2, 5, 6, 4), positions_around((5, 6), spread=1.0)
    low = features.bfloat16().requires_grad_()
    output = sample_bilinear(low, positions)
    output.sum().backward()
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), sample_bilinear(features, positions), atol=0.05, rtol=0.05)
    assert low.grad is not None
    assert torch.isfinite(low.grad).all()
