import pytest
import torch

from ommatid.nn.mixers import Attention, LongShortAttention
from ommatid.nn.position import dynamic_bias


def mixer(group: int, interval: int, *, centered: bool = False) -> LongShortAttention:
    bias = dynamic_bias((group, group), 2, 4)
    return LongShortAttention(8, 2, group, bias, interval=interval, centered=centered).requires_grad_(False)


def attention_like(other: LongShortAttention) -> Attention:
    attention = Attention(8, 2, bias=other.bias)
    attention.load_state_dict(other.state_dict())
    return attention


def test_groups_are_every_nth_token_of_a_tile() -> None:
    far = mixer(group=2, interval=3)
    x = torch.randn(2, 6, 12, 8)
    mixed = far(x)
    for row in range(3):
        for column in range(3):
            for tile in (slice(column, 6, 3), slice(6 + column, 12, 3)):
                group = x[:, row::3, tile]
                torch.testing.assert_close(mixed[:, row::3, tile], attention_like(far)(group))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("interval", [1, 2])
def test_padding_is_never_attended_to(interval: int, centered: bool) -> None:
    padded = mixer(group=3, interval=interval, centered=centered)
    # Values are 1 on the map and 0 in its padding, so that anything but 1 comes from the padding.
    padded.qkv.weight[16:] = 0
    padded.qkv.weight[16:, 0] = 1
    padded.qkv.bias[16:] = 0
    x = torch.randn(1, 5, 7, 8)
    x[..., 0] = 1
    torch.testing.assert_close(padded(x), padded.proj(torch.ones(8)).expand_as(x))


@pytest.mark.parametrize("centered", [False, True])
def test_a_map_of_one_padded_group_is_plain_attention(centered: bool) -> None:
    padded = mixer(group=4, interval=1, centered=centered)
    x = torch.randn(2, 3, 2, 8)
    attention = attention_like(padded)
    small = dynamic_bias((3, 2), 2, 4)
    small.load_state_dict(padded.bias.state_dict())
    attention.bias = small
    torch.testing.assert_close(padded(x), attention(x))
