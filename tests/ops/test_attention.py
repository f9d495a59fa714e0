"""The attention core against its definition, on every path that it may take."""

import pytest
import torch
from torch import Tensor

from ommatid.ops.attention import attend, attend_weighing


def definition(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v, one pair of head and image at a time."""
    bias = bias.expand(len(query), query.shape[2], -1, -1)
    images = []
    for image in range(len(query)):
        heads = [
            (query[image, :, head] @ key[image, :, head].T * scale + bias[image, head]).softmax(-1)
            @ value[image, :, head]
            for head in range(query.shape[2])
        ]
        images.append(torch.cat(heads, dim=-1))
    return torch.stack(images)


@pytest.mark.parametrize("bias_shape", [(5, 7), (3, 5, 7), (1, 3, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("value_width", [4, 6])
def test_values_and_gradients(
    bias_shape: tuple[int, ...], learned: bool, scale: float | None, value_width: int
) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    key = torch.randn(2, 7, 3, 4, dtype=torch.float64, requires_grad=True)
    value = torch.randn(2, 7, 3, value_width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(bias_shape, dtype=torch.float64, requires_grad=learned)
    inputs = [query, key, value, *([bias] if learned else [])]

    ours = attend(query, key, value, bias=bias, scale=scale)
    expected = definition(query, key, value, bias, 4**-0.5 if scale is None else scale)
    torch.testing.assert_close(ours, expected)
    probe = torch.randn_like(expected)
    gradients = torch.autograd.grad((ours * probe).sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * probe).sum(), inputs))


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
