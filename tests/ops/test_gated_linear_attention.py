import pytest
import torch
from torch import Tensor

from ommatid.ops.gated_linear_attention import gated_linear_attention, gated_linear_attention_reference

HEADS = 3


def random_inputs(length, decay=0.3, dtype=torch.float64, batch=2) -> tuple[Tensor, ...]:
    """`decay` is the largest loss of a step, in powers of e."""
    generator = torch.Generator().manual_seed(length)
    query, key = (torch.randn(batch, length, HEADS, 4, generator=generator, dtype=dtype) for _ in range(2))
    value = torch.randn(batch, length, HEADS, 5, generator=generator, dtype=dtype)
    return query, key, value, -decay * torch.rand(batch, length, HEADS, 4, generator=generator, dtype=dtype)


def test_reference_follows_the_sum_over_pairs():
    query, key, value, log_decay = random_inputs(9)
    total = log_decay.cumsum(1)
    expected = torch.zeros_like(value)
    for t in range(9):
        for s in range(t + 1):
            weight = (query[:, t] * key[:, s] * (total[:, t] - total[:, s]).exp()).sum(-1)
            expected[:, t] += weight[..., None] * value[:, s]
    torch.testing.assert_close(gated_linear_attention_reference(query, key, value, log_decay), expected)


@pytest.mark.parametrize("decay", [0.0, 0.3, 5.0, 400.0])
@pytest.mark.parametrize(("length", "chunk_size"), [(1, 16), (2, 2), (5, 1), (16, 16), (33, 8), (40, 64)])
def test_fast_and_reference_agree_in_answer_and_gradients(length, chunk_size, decay):
    inputs = [x.requires_grad_() for x in random_inputs(length, decay)]
    answers = [gated_linear_attention(*inputs, chunk_size=chunk_size), gated_linear_attention_reference(*inputs)]
    gradients = [torch.autograd.grad(answer.square().sum(), inputs) for answer in answers]
    torch.testing.assert_close(*answers)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("decay", [0.3, 400.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_close_to_double(dtype, tolerance, decay):
    inputs = [x.requires_grad_() for x in random_inputs(70, decay, dtype=dtype)]
    exact = gated_linear_attention_reference(*(x.double() for x in inputs))
    answer = gated_linear_attention(*inputs)
    assert answer.dtype == dtype
    torch.testing.assert_close(answer.double(), exact, rtol=tolerance, atol=tolerance)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(answer.sum(), inputs))


def test_autocast_keeps_the_state_in_float32():
    inputs = random_inputs(70, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = gated_linear_attention(*inputs)
    torch.testing.assert_close(answer, gated_linear_attention(*inputs))


@pytest.mark.parametrize("size", [0, 3, -4])
def test_chunks_that_do_not_halve_are_refused(size):
    with pytest.raises(ValueError, match="chunk_size must be a power of 2"):
        gated_linear_attention(*random_inputs(8), chunk_size=size)


@pytest.mark.parametrize("version", [gated_linear_attention, gated_linear_attention_reference])
def test_inputs_that_do_not_fit_together_are_refused(version):
    query, key, value, log_decay = random_inputs(8)
    with pytest.raises(ValueError, match="query, key and log_decay must share one shape"):
        version(query, key[:, 1:], value, log_decay)
    with pytest.raises(ValueError, match=r"value must have the shape \(2, 8, 3, 'e'\)"):
        version(query, key, value[:1], log_decay)
