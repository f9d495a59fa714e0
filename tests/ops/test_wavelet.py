"""The Haar transform against its filters, and as the orthonormal map that it is."""

import pytest
import torch

from ommatid.ops.wavelet import haar, haar_reference


@pytest.mark.parametrize("size", [(1, 2, 2, 1), (2, 6, 4, 5), (3, 8, 16, 7)])
def test_agrees_with_the_filters_forward_and_backward(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    features = torch.randn(size, requires_grad=True)
    pairs = list(zip(haar(features), haar_reference(features), strict=True))
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)
        probe = torch.randn_like(theirs)
        gradients = [torch.autograd.grad(band, features, probe, retain_graph=True)[0] for band in (mine, theirs)]
        torch.testing.assert_close(*gradients)


def test_keeps_the_energy() -> None:
    features = torch.randn(2, 8, 6, 3, dtype=torch.float64)
    low, details = haar(features)
    torch.testing.assert_close(low.square().sum() + details.square().sum(), features.square().sum())


def test_bands_of_one_square() -> None:
    square = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).view(1, 2, 2, 1)
    low, details = haar(square)
    assert low.flatten().tolist() == [5.5]
    assert details.flatten().tolist() == [-2.5, -1.5, 0.5]


def test_stays_close_in_bfloat16() -> None:
    features = torch.randn(2, 8, 6, 3)
    for mine, theirs in zip(haar(features.bfloat16()), haar_reference(features), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.float() - theirs).abs().max() < 0.03 * theirs.abs().max()


def test_odd_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed is an even number"):
        haar(torch.zeros(1, 3, 4, 1))
