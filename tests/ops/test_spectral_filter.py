import pytest
import torch
from torch import Tensor

from ommatid.ops.spectral_filter import spectral_filter, spectral_filter_reference

SIZES = [(4, 4), (5, 7), (6, 5), (7, 8), (3, 2), (1, 1), (14, 14)]


def random_inputs(size, dtype=torch.float64, channels=3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    features = torch.randn(2, *size, channels, generator=generator, dtype=dtype)
    return features, torch.randn(size[0], size[1] // 2 + 1, channels, 2, generator=generator, dtype=dtype)


@pytest.mark.parametrize("size", SIZES)
def test_fast_and_reference_agree_in_answer_and_gradients(size):
    features, gain = (x.requires_grad_() for x in random_inputs(size))
    probe = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    answers = [
        version(features, torch.view_as_complex(gain)) for version in (spectral_filter, spectral_filter_reference)
    ]
    gradients = [torch.autograd.grad((answer * probe).sum(), (features, gain)) for answer in answers]
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("size", [(4, 6), (5, 7)])
def test_follows_the_published_sums(size):
    """The row transform of the specification, term by term, after a complex inverse transform of the columns."""
    features, gain = random_inputs(size)
    height, width = size
    columns = torch.fft.ifft(torch.fft.rfft2(features, dim=(1, 2), norm="ortho") * torch.view_as_complex(gain), dim=1)
    columns = columns * height**0.5
    expected = torch.zeros_like(features)
    for n in range(width):
        row = columns[:, :, 0].real
        for v in range(1, (width + 1) // 2):
            turn = torch.exp(torch.tensor(2j * torch.pi * v * n / width, dtype=torch.complex128))
            row = row + 2 * (columns[:, :, v] * turn).real
        if width % 2 == 0:
            row = row + columns[:, :, width // 2].real * (-1) ** n
        expected[:, :, n] = row / width**0.5
    torch.testing.assert_close(spectral_filter(features, torch.view_as_complex(gain)), expected)


def test_equals_a_circular_convolution_when_the_gain_is_that_of_a_kernel():
    features, _ = random_inputs((6, 8), channels=1)
    kernel = torch.randn(6, 8, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    shifted = (features.roll((row, column), (1, 2)) * kernel[row, column] for row in range(6) for column in range(8))
    torch.testing.assert_close(spectral_filter(features, torch.fft.rfft2(kernel, dim=(0, 1))), sum(shifted))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_stays_close_to_double(dtype, tolerance):
    features, gain = random_inputs((9, 12), dtype=torch.float32)
    exact = spectral_filter_reference(features.to(dtype).double(), torch.view_as_complex(gain.double()))
    answer = spectral_filter(features.to(dtype), torch.view_as_complex(gain))
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("version", [spectral_filter, spectral_filter_reference])
def test_a_gain_of_another_size_is_refused(version):
    features, gain = random_inputs((6, 8))
    with pytest.raises(ValueError, match=r"gain must be complex with the shape \(6, 5, 3\)"):
        version(features, torch.view_as_complex(gain[:5]))
    with pytest.raises(ValueError, match="gain must be complex"):
        version(features, gain[..., 0])
