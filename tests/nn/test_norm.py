"""Norms on channels-last maps answer as PyTorch's channels-first ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ommatid.nn.norm import InstanceBatchNorm, InstanceNorm2d


def test_instance_norm_norms_each_channel_of_each_image() -> None:
    norm = InstanceNorm2d(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = torch.randn(2, 5, 7, 6) * 3 + 1
    normed = norm(features)
    expected = F.instance_norm(features.permute(0, 3, 1, 2), weight=norm.weight, bias=norm.bias).permute(0, 2, 3, 1)
    torch.testing.assert_close(normed, expected)
    assert normed.is_contiguous()


def test_instance_norm_needs_more_than_one_position() -> None:
    with pytest.raises(ValueError, match="allowed is more than one position"):
        InstanceNorm2d(6)(torch.randn(2, 1, 1, 6))


def test_instance_batch_norm_treats_half_of_the_channels_alone() -> None:
    norm = InstanceBatchNorm(6)
    features = torch.randn(4, 5, 7, 6) * torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1)
    normed = norm(features)
    torch.testing.assert_close(normed[1:2, ..., :3], norm(features[1:2])[..., :3])
    per_image = normed.var((1, 2))
    assert per_image[:, :3].sub(1).abs().max() < 0.05
    assert (per_image[3, 3:] > 2 * per_image[0, 3:]).all()
