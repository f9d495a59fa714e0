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
    for length in (1, 2, 29):
        mixed = mixer(torch.randn(2, length, 4))
        assert mixed.shape == (2, length, 4)
        assert torch.isfinite(mixed).all()


def test_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="sequence length = 12 is not possible: allowed is up to 9"):
        AdaptiveGlobalConv(4, 9)(torch.randn(1, 3, 4, 4))
