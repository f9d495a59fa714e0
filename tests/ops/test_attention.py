import torch

from ommatid.ops.attention import attend, attend_weighing


def test_weighing_attention_mixes_alike_and_counts_what_keys_got():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, tokens, 3, 4, generator=generator) for tokens in (5, 6, 6))
    mixed, received = attend_weighing(query, key, value)
    torch.testing.assert_close(mixed, attend(query, key, value))
    weights = torch.einsum("bnhd,bmhd->bhnm", query, key).div(2).softmax(-1)
    torch.testing.assert_close(received, weights.mean((1, 2)))


def test_what_keys_got_has_no_gradient():
    query, key, value = (torch.rand(1, 4, 2, 3, requires_grad=True) for _ in range(3))
    mixed, received = attend_weighing(query, key, value, scale=1.0)
    assert mixed.requires_grad
    assert not received.requires_grad
