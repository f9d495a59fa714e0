import pytest
import torch

from ommatid.ops.softmax_free import (
    REGULARIZER,
    halvings_needed,
    normalized_inverse,
    regularized_inverse,
    softmax_free_attend,
    softmax_free_attend_reference,
)


def random_inputs(dtype=torch.float64, tokens=12, landmarks=5, width=8):
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, tokens, 3, width), (2, landmarks, 3, width), (2, tokens, 3, width)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def random_kernels(spread=1.0):
    points = spread * torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (-torch.cdist(points, points).square() / 2).exp()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("iterations", [1, 20])
def test_fast_and_reference_agree(normalize, iterations):
    inputs, how = random_inputs(), {"iterations": iterations, "normalize": normalize}
    torch.testing.assert_close(softmax_free_attend(*inputs, **how), softmax_free_attend_reference(*inputs, **how))


@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_agree_once_the_iteration_has_converged(normalize):
    gradients = []
    for attend in (softmax_free_attend, softmax_free_attend_reference):
        inputs = [part.requires_grad_() for part in random_inputs()]
        answer = attend(*inputs, iterations=30, normalize=normalize)
        gradients.append(torch.autograd.grad(answer.square().sum(), inputs))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_lower_precision_stays_close(normalize, dtype, tolerance):
    exact = softmax_free_attend(*random_inputs(), iterations=20, normalize=normalize)
    lower = softmax_free_attend(*random_inputs(dtype), iterations=20, normalize=normalize)
    assert lower.dtype == dtype
    assert (lower.double() - exact).abs().max() <= tolerance * exact.abs().max()


def test_regularized_inverse_is_an_inverse_in_value_and_gradient():
    kernel = random_kernels().requires_grad_()
    inverse = regularized_inverse(kernel, 30)
    expected = torch.linalg.inv(kernel + REGULARIZER * torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(inverse, expected)
    probe = torch.randn(inverse.shape, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((inverse * probe).sum(), kernel), torch.autograd.grad((expected * probe).sum(), kernel)
    )


def test_regularized_gradient_takes_the_inverse_as_it_is_before_it_has_converged():
    kernel = random_kernels().requires_grad_()
    inverse = regularized_inverse(kernel, 2)
    probe = torch.randn(inverse.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((inverse * probe).sum(), kernel)
    torch.testing.assert_close(gradient, -inverse.mT @ probe @ inverse.mT)


def test_normalized_inverse_is_scaled_by_the_row_sums():
    kernel = random_kernels(spread=2.0)
    scale = torch.diag_embed(kernel.sum(-1).rsqrt())
    torch.testing.assert_close(normalized_inverse(kernel, 40), scale @ torch.linalg.inv(kernel) @ scale)


@pytest.mark.parametrize(("step", "divisor"), [(0.5, 1), (3.0, 2), (4.1, 4), (9.0, 8), (1e9, 1024)])
def test_steps_are_halved_until_the_start_is_close(step, divisor):
    """For the identity as kernel the columns of I - step I sum up to |1 - step|."""
    assert halvings_needed(torch.eye(4)[None], torch.tensor(step)) == divisor
