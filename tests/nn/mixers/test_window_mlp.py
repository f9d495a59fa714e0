import pytest
import torch
from torch import Tensor

from ommatid.nn.mixers import WindowMLP


def token_by_token(mixer: WindowMLP, x: Tensor, window: int, shift: int) -> Tensor:
    """Every token is the bias of its place in its window, and the weighted tokens of that window on the map."""
    _, height, width, channels = x.shape
    mixed = torch.empty_like(x)
    for row in range(height):
        for column in range(width):
            top = (row - shift) // window * window + shift
            left = (column - shift) // window * window + shift
            place = (row - top) * window + column - left
            for channel in range(channels):
                head = channel // (channels // mixer.heads)
                mixed[:, row, column, channel] = mixer.bias[head, place]
                for r in range(max(top, 0), min(top + window, height)):
                    for c in range(max(left, 0), min(left + window, width)):
                        weight = mixer.weight[head, place, (r - top) * window + c - left]
                        mixed[:, row, column, channel] += weight * x[:, r, c, channel]
    return mixed


@pytest.mark.parametrize(("window", "shift"), [(2, 0), (2, 1), (3, 1), (4, 0)])
@pytest.mark.parametrize("size", [(6, 4), (5, 3)])
def test_mixes_the_tokens_of_each_window(size: tuple[int, int], window: int, shift: int) -> None:
    mixer = WindowMLP(4, 2, window, shift=shift).requires_grad_(False)
    torch.nn.init.normal_(mixer.weight)
    torch.nn.init.normal_(mixer.bias)
    x = torch.randn(2, *size, 4)
    torch.testing.assert_close(mixer(x), token_by_token(mixer, x, window, shift))
