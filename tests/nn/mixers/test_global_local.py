import torch
from torch import nn

from ommatid.nn.mixers import GlobalLocalFilter
from ommatid.nn.mixers.global_local import resample_gain
from ommatid.ops.spectral_filter import spectral_filter


def bare_filter(spectrum):
    """Without norms, and with a local half that changes nothing."""
    mixer = GlobalLocalFilter(6, spectrum, norm=lambda dim: nn.Identity())
    nn.init.dirac_(mixer.local.weight, groups=3)
    return mixer


def test_outputs_of_the_halves_alternate():
    mixer, x = bare_filter((5, 4)), torch.randn(2, 5, 7, 6)
    answer = mixer(x)
    torch.testing.assert_close(answer[..., ::2], x[..., :3])
    torch.testing.assert_close(answer[..., 1::2], spectral_filter(x[..., 3:], torch.view_as_complex(mixer.gain)))


def test_gains_that_do_not_depend_on_the_frequency_scale_maps_of_any_size():
    mixer, x = bare_filter((5, 4)), torch.randn(2, 8, 3, 6)
    with torch.no_grad():
        mixer.gain.copy_(torch.tensor([2.0, 0.0]).expand_as(mixer.gain))
    torch.testing.assert_close(mixer(x)[..., 1::2], 2 * x[..., 3:])


def test_gains_are_resampled_between_their_corners():
    gain = torch.tensor([0.0, 2.0, 10.0]).view(3, 1, 1, 1).expand(3, 2, 4, 2).contiguous()
    rows = resample_gain(gain, (5, 2))[:, 1, 3, 1]
    torch.testing.assert_close(rows, torch.tensor([0.0, 1.0, 2.0, 6.0, 10.0]))
    torch.testing.assert_close(resample_gain(gain, (1, 3))[0, :, 0, 0], torch.zeros(3))
