import torch

from ommatid.nn.mixers import ChannelAttention


def test_each_channel_is_an_average_of_its_groups_channels() -> None:
    mixer = ChannelAttention(6, 2).requires_grad_(False)
    torch.nn.init.eye_(mixer.proj.weight)
    torch.nn.init.zeros_(mixer.proj.bias)
    x = torch.randn(2, 3, 4, 6)
    value, query, key = mixer.qkv(x.flatten(1, 2)).split(6, -1)
    mixed = mixer(x).flatten(1, 2)
    for group in (slice(0, 3), slice(3, 6)):
        scores = torch.einsum("bnc,bne->bce", query[..., group], key[..., group]) / 3**0.5
        expected = torch.einsum("bce,bne->bnc", scores.softmax(-1), value[..., group])
        torch.testing.assert_close(mixed[..., group], expected)
