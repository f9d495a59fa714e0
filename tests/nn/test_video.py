"""Parts that work on three axes as they do on two."""

import torch
from torch import nn

from ommatid.nn.conv import Conv3d, depthwise_conv3d
from ommatid.nn.deploy import deployed_copy
from ommatid.nn.norm import BatchNorm
from ommatid.nn.position import ConvPosition


def test_convolution_on_channels_last_videos_is_the_usual_one():
    conv = Conv3d(3, 5, (3, 2, 2), stride=(2, 1, 2), padding=(1, 0, 0))
    video = torch.randn(2, 4, 5, 6, 3)
    usual = nn.functional.conv3d(video.movedim(-1, 1), conv.weight, conv.bias, conv.stride, conv.padding)
    torch.testing.assert_close(conv(video), usual.movedim(1, -1))


def test_depthwise_convolution_keeps_the_size_and_the_channels_apart():
    conv, video = depthwise_conv3d(4, 5), torch.zeros(1, 3, 4, 2, 4)
    video[..., 1] = torch.randn(1, 3, 4, 2)
    answer = conv(video) - conv(torch.zeros_like(video))
    assert answer.shape == video.shape
    assert answer[..., 1].abs().max() > 0
    assert answer[..., [0, 2, 3]].abs().max() == 0


def test_batch_norm_is_over_all_axes_but_the_last():
    ours, usual = BatchNorm(4), nn.BatchNorm3d(4)
    video = torch.randn(2, 3, 5, 2, 4) * 3 + 1
    torch.testing.assert_close(ours(video), usual(video.movedim(-1, 1)).movedim(1, -1))
    torch.testing.assert_close(ours.running_var, usual.running_var)
    torch.testing.assert_close(ours.eval()(video), usual.eval()(video.movedim(-1, 1)).movedim(1, -1))


def test_convolutional_positions_of_videos_fold_their_shortcut():
    position, video = ConvPosition(4, axes=3).eval(), torch.randn(1, 3, 4, 5, 4)
    folded = deployed_copy(position)
    torch.testing.assert_close(folded(video), position(video))
    torch.testing.assert_close(folded.conv(video), position(video))
