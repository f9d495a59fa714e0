"""Class attention against the first token's attention with keys and values written out."""

import pytest
import torch

from ommatid.nn.class_attention import ClassAttention
from ommatid.ops.attention import attend


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_the_first_token_attends_to_all(qkv_bias: bool) -> None:
    torch.manual_seed(0)
    attention = ClassAttention(12, 3, qkv_bias=qkv_bias).double()
    tokens = torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)

    query = attention.query(tokens[:, :1]).unflatten(-1, (3, 4))
    key, value = attention.key_value(tokens).unflatten(-1, (2, 3, 4)).unbind(2)
    expected = attention.proj(attend(query, key, value))
    ours = attention(tokens)
    torch.testing.assert_close(ours, expected)

    probe, inputs = torch.randn_like(expected), [tokens, *attention.parameters()]
    gradients = torch.autograd.grad((ours * probe).sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * probe).sum(), inputs))
