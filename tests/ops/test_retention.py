import pytest
import torch
from torch import Tensor

from ommatid.ops.retention import retention_chunkwise, retention_parallel, retention_recurrent

HEADS = 3
LOG_DECAY = torch.log1p(-torch.tensor([1 / 4, 1 / 32, 1 / 512], dtype=torch.float64))


def random_inputs(length, dtype=torch.float64, batch=2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    widths = (4, 4, 5)
    return tuple(torch.randn(batch, length, HEADS, width, generator=generator, dtype=dtype) for width in widths)


def brute_force(query, key, value) -> Tensor:
    output = torch.zeros_like(value)
    for t in range(query.shape[1]):
        for s in range(t + 1):
            weight = (query[:, t] * key[:, s]).sum(-1) * (LOG_DECAY * (t - s)).exp()
            output[:, t] += weight[..., None] * value[:, s]
    return output


@pytest.mark.parametrize("length", [1, 2, 9])
def test_parallel_form_follows_the_sum(length):
    inputs = random_inputs(length)
    torch.testing.assert_close(retention_parallel(*inputs, LOG_DECAY), brute_force(*inputs))


@pytest.mark.parametrize("chunk_size", [1, 4, 7, 16, 100])
@pytest.mark.parametrize("length", [1, 4, 16, 29])
def test_three_forms_agree_in_answer_and_gradients(length, chunk_size):
    inputs = [x.requires_grad_() for x in random_inputs(length)]
    recurrent, last = retention_recurrent(*inputs, LOG_DECAY)
    chunkwise, last_of_chunks = retention_chunkwise(*inputs, LOG_DECAY, chunk_size=chunk_size)
    answers = [retention_parallel(*inputs, LOG_DECAY), recurrent, chunkwise]
    gradients = [torch.autograd.grad(answer.square().sum(), inputs) for answer in answers]
    torch.testing.assert_close(last, last_of_chunks)
    for answer, gradient in zip(answers[1:], gradients[1:], strict=True):
        torch.testing.assert_close(answer, answers[0])
        torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize("version", [retention_recurrent, retention_chunkwise])
@pytest.mark.parametrize("cut", [1, 13, 28])
def test_continues_from_the_state_of_earlier_tokens(version, cut):
    inputs = random_inputs(29)
    whole, state = version(*inputs, LOG_DECAY)
    before, middle = version(*(x[:, :cut] for x in inputs), LOG_DECAY)
    after, end = version(*(x[:, cut:] for x in inputs), LOG_DECAY, state=middle)
    torch.testing.assert_close(torch.cat([before, after], dim=1), whole)
    torch.testing.assert_close(end, state)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precision_stays_close_to_double(dtype, tolerance):
    inputs = random_inputs(50, dtype=dtype)
    exact = retention_parallel(*(x.double() for x in inputs), LOG_DECAY)
    decay = LOG_DECAY.float()
    answers = [
        retention_parallel(*inputs, decay),
        retention_recurrent(*inputs, decay)[0],
        retention_chunkwise(*inputs, decay, chunk_size=8)[0],
    ]
    for answer in answers:
        assert answer.dtype == dtype
        torch.testing.assert_close(answer.double(), exact, rtol=tolerance, atol=tolerance)
