import pytest
import torch

from ommatid.nn.mixers import AdaptiveGlobalConv
from ommatid.nn.mixers.adaptive_global_conv import TRANSFORMS, StaticConv

DIM, LENGTH = 3, 7


@pytest.mark.parametrize(("transform", "divisor"), [("fft", LENGTH), ("fft_ortho", LENGTH**0.5)])
def test_static_convolution_goes_around(transform: str, divisor: float) -> None:
    torch.manual_seed(0)
    conv = StaticConv(DIM, 10, position_dim=5, hidden=6, inner_layers=1, frequency=3.0)
    x = torch.randn(2, DIM, LENGTH)
    kernel = conv.kernel(LENGTH)
    around = sum(kernel[:, shift, None] * x.roll(shift, -1) for shift in range(LENGTH))
    torch.testing.assert_close(conv(x, TRANSFORMS[transform]), around / divisor + conv.skip[:, None] * x)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("options", [{}, {"conditioning": "correlation"}])
def test_every_transform_takes_every_kernel(transform: str, options: dict) -> None:
    mixer = AdaptiveGlobalConv(4, 30, position_dim=3, transform=transform, **options)
    for length in (1, 2, 29, 40):
        mixed = mixer(torch.randn(2, length, 4))
        assert mixed.shape == (2, length, 4)
        assert torch.isfinite(mixed).all()


def test_shorter_kernels_are_cut_and_longer_ones_stretched() -> None:
    kernel = StaticConv(DIM, 9, position_dim=5, hidden=6, inner_layers=1, frequency=1.0).kernel
    torch.testing.assert_close(kernel(4), kernel(9)[:, :4])
    torch.testing.assert_close(kernel(17)[:, ::2], kernel(9))
