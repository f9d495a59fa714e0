"""Softmax-free attention: a Gaussian kernel between tokens, of low rank through landmarks.

Sources: "SOFT: Softmax-free Transformer with Linear Complexity" (arXiv 2110.11945), "Softmax-free Linear Transformers"
(arXiv 2207.03341). The kernel of all N tokens is approximated by K1 A K1^T, where K1 is that between the tokens and m
landmarks, and A an inverse of the landmarks' own kernel K2, found by Newton's iteration V <- 2 V - V K2 V.

Everything is computed in float32 (float64 for float64 inputs), also under autocast: the inversion amplifies rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

REGULARIZER = 0.01
MOST_HALVINGS = 10
LARGEST_START = 1.01
"""The iteration starts close enough where no column of I - K2 V_0 sums up to more in magnitude."""


def softmax_free_attend(
    query: Tensor, landmarks: Tensor, value: Tensor, *, iterations: int, normalize: bool = False
) -> Tensor:
    """Attention by a Gaussian kernel, keys being the queries. Linear in N: 3 N m d multiply-adds per head.

    Args:
        query: (B, N, heads, d), divided by d ** 0.25.
        landmarks: (B, m, heads, d).
        value: (B, N, heads, d).
        iterations: steps of the inversion.
        normalize: scales the kernel by the landmarks' row sums.

    Returns:
        (B, N, heads * d), in the type of the values.
    """
    exact = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast(value.device.type, enabled=False):
        query, landmarks, values = (part.to(exact).transpose(1, 2) for part in (query, landmarks, value))
        to_landmarks = gaussian_kernel(query, landmarks)
        between_landmarks = gaussian_kernel(landmarks, landmarks)
        inverse = (normalized_inverse if normalize else regularized_inverse)(between_landmarks, iterations)
        mixed = to_landmarks @ (inverse @ (to_landmarks.mT @ values))
    return mixed.transpose(1, 2).flatten(2).to(value.dtype)


def softmax_free_attend_reference(
    query: Tensor, landmarks: Tensor, value: Tensor, *, iterations: int, normalize: bool = False
) -> Tensor:
    """`softmax_free_attend`, by the kernel of all pairs of tokens, halving step by step."""
    query, landmarks, values = (part.transpose(1, 2) for part in (query, landmarks, value))
    to_landmarks = (-(query.unsqueeze(-2) - landmarks.unsqueeze(-3)).square().sum(-1) / 2).exp()
    between = (-(landmarks.unsqueeze(-2) - landmarks.unsqueeze(-3)).square().sum(-1) / 2).exp()
    identity = torch.eye(between.shape[-1], dtype=between.dtype, device=between.device)
    sums = between.sum(-1)
    if normalize:
        step = 2 / sums.max() ** 2
        halvings = 0
        while (identity - between @ (step * between)).abs().sum(-2).max() > LARGEST_START and halvings < MOST_HALVINGS:
            step, halvings = step / 2, halvings + 1
        matrix, start = between, step * between
    else:
        matrix = between + REGULARIZER * identity
        start = (1.8 / sums.amax(-1) ** 2)[..., None, None] * matrix
    inverse = start
    for _ in range(iterations):
        inverse = 2 * inverse - inverse @ matrix @ inverse
    if normalize:
        inverse = inverse / (sums.unsqueeze(-1) * sums.unsqueeze(-2)).sqrt()
    return (to_landmarks @ inverse @ to_landmarks.mT @ values).transpose(1, 2).flatten(2)


def gaussian_kernel(points: Tensor, others: Tensor) -> Tensor:
    """exp(-|p - o|^2 / 2) of every pair: (..., N, d), (..., m, d) -> (..., N, m)."""
    half_squares, other_half_squares = (side.square().sum(-1) / 2 for side in (points, others))
    return (points @ others.mT - half_squares.unsqueeze(-1) - other_half_squares.unsqueeze(-2)).exp()


def regularized_inverse(kernel: Tensor, iterations: int) -> Tensor:
    """Inverse of K + 0.01 I for kernels K (..., m, m), each with a start of its own.

    The gradient is that of an exact inverse A, which is -A^T dA A^T: it does not run through the iteration.
    """
    with torch.no_grad():
        regularized = kernel + REGULARIZER * torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
        step = 1.8 / kernel.sum(-1).amax(-1).square()
        inverse = newton_inverse(regularized, step[..., None, None] * regularized, iterations)
    if not kernel.requires_grad:
        return inverse
    return inverse - inverse @ (kernel - kernel.detach()) @ inverse


def normalized_inverse(kernel: Tensor, iterations: int) -> Tensor:
    """D^(-1/2) K^(-1) D^(-1/2) for kernels K (..., m, m) with row sums D, all with the same start.

    The step that scales the start comes from the largest row sum of all kernels together, halved (up to 10 times) until
    the start is close to every inverse: what one gets depends a little on the others.
    """
    sums = kernel.sum(-1)
    step = 2 / sums.max().square()
    step = step / halvings_needed(kernel.detach(), step.detach())
    scale = sums.rsqrt()
    return newton_inverse(kernel, step * kernel, iterations) * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def halvings_needed(kernel: Tensor, step: Tensor) -> Tensor:
    """2 ** n, where n <= 10 is how often the step must be halved. Without asking the GPU for its answer in between."""
    square = kernel @ kernel
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    divisor, searching = torch.ones_like(step), torch.ones_like(step)
    for _ in range(MOST_HALVINGS):
        farthest = (identity - step / divisor * square).abs().sum(-2).max()
        searching = searching * (farthest > LARGEST_START)
        divisor = divisor * (1 + searching)
    return divisor


def newton_inverse(matrix: Tensor, start: Tensor, iterations: int) -> Tensor:
    """Newton's iteration for the inverse of matrices (..., m, m): 2 m^3 multiply-adds a step for each."""
    inverse = start
    for _ in range(iterations):
        inverse = 2 * inverse - inverse @ matrix @ inverse
    return inverse
