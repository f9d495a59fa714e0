"""Linear attentions against their definitions with all weights."""

from collections.abc import Callable

import pytest
import torch

from ommatid.ops.linear_attention import (
    injective_attention,
    injective_attention_reference,
    linear_attention,
    linear_attention_reference,
)

PAIRS = [(linear_attention, linear_attention_reference), (injective_attention, injective_attention_reference)]
SIZES = [(2, 30, 3, 4), (1, 5, 2, 16), (1, 1, 1, 1)]


def operands(size: tuple[int, ...]) -> list[torch.Tensor]:
    """Queries and keys not negative, values anything."""
    torch.manual_seed(0)
    query, key, value = torch.rand(size), torch.rand(size), torch.randn(size)
    return [part.requires_grad_() for part in (query, key, value)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("fast", "definition"), PAIRS)
def test_agrees_with_the_definition_forward_and_backward(
    fast: Callable, definition: Callable, size: tuple[int, ...]
) -> None:
    inputs = operands(size)
    answer, expected = fast(*inputs), definition(*inputs)
    torch.testing.assert_close(answer, expected)
    probe = torch.randn_like(expected)
    mine, theirs = torch.autograd.grad(answer, inputs, probe), torch.autograd.grad(expected, inputs, probe)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("fast", "definition"), PAIRS)
def test_stays_close_in_bfloat16(fast: Callable, definition: Callable) -> None:
    inputs = operands((2, 30, 3, 4))
    expected = definition(*inputs)
    rounded = fast(*(part.bfloat16() for part in inputs))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("fast", [linear_attention, injective_attention])
def test_weights_sum_to_one(fast: Callable) -> None:
    query, key, _ = operands((1, 6, 2, 3))
    torch.testing.assert_close(fast(query, key, torch.ones(1, 6, 2, 3)), torch.ones(1, 6, 6), rtol=1e-4, atol=1e-5)
