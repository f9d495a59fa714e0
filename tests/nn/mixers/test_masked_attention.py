"""Masked attention: the mask is the mixture it claims to be, and fixes the number of tokens."""

import pytest
import torch

from ommatid.nn.deploy import deployed_copy
from ommatid.nn.mixers import Attention
from ommatid.nn.mixers.masked_attention import GaussianMixtureMask, LearnedMask, MaskedAttention


def test_mask_is_a_sum_of_gaussians_of_the_distance() -> None:
    torch.manual_seed(0)
    mask = GaussianMixtureMask((3, 4), heads=2, kernels=3)
    torch.nn.init.uniform_(mask.width, 0.5, 2)
    y, x = torch.arange(3.0).repeat_interleave(4), torch.arange(4.0).repeat(3)
    squared = (y[:, None] - y[None, :]) ** 2 + (x[:, None] - x[None, :]) ** 2
    variance = (mask.width**2 + 1e-5)[:, :, None, None]
    expected = (mask.weight[:, :, None, None] * torch.exp(-squared / (2 * variance))).sum(0)
    torch.testing.assert_close(mask(), expected)
    torch.testing.assert_close(deployed_copy(mask)(), expected)


def test_far_positions_are_zero_under_wide_gaussians_as_in_the_reference() -> None:
    mask = GaussianMixtureMask((1, 16), heads=1, kernels=1)
    torch.nn.init.constant_(mask.width, 30.0)
    assert mask()[0, 0, 8] != 0
    assert mask()[0, 0, 12] == 0


def test_a_mask_of_zeros_averages_all_tokens() -> None:
    mixer = MaskedAttention(8, 2, 3, mask=LearnedMask(6))
    x = torch.rand(1, 2, 3, 8)
    value = mixer.qkv(x)[..., 12:]
    torch.testing.assert_close(mixer(x), mixer.proj(value.mean((1, 2), keepdim=True)).expand_as(x))
    with pytest.raises(ValueError, match="allowed is 6"):
        mixer(torch.rand(1, 3, 3, 8))


def test_without_a_mask_it_is_plain_attention() -> None:
    masked, plain = MaskedAttention(8, 2, 4), Attention(8, 2, qkv_bias=False)
    plain.load_state_dict(masked.state_dict())
    x = torch.rand(2, 5, 8)
    torch.testing.assert_close(masked(x), plain(x))
    assert isinstance(MaskedAttention(8, 1, 8).proj, torch.nn.Identity)
