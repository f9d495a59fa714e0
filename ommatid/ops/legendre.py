"""The Legendre memory: the last steps of one signal, as coefficients of Legendre polynomials.

"Legendre Memory Units: Continuous-Time Representation in Recurrent Neural Networks" (NeurIPS 2019). Nothing in it is
learned. It runs one step after another, or over a whole sequence as a convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor


def legendre_system(order: int, window: float) -> tuple[Tensor, Tensor]:
    """A (order, order) and B (order,) of m_t = A m_(t-1) + B u_t, which remembers `window` steps; float64, on the CPU.

    The continuous system under a zero-order hold of one step.
    """
    index = torch.arange(order, dtype=torch.float64, device="cpu")
    rate = ((2 * index + 1) / window)[:, None]
    row, column = index[:, None], index
    transition = rate * torch.where(row < column, -1.0, (-1.0) ** (row - column + 1))
    entry = rate * (-1.0) ** row
    # The exponential of [[a, b], [0, 0]] holds both exp(a) and the integral that the hold asks for.
    whole = torch.cat([torch.cat([transition, entry], 1), torch.zeros(1, order + 1, dtype=torch.float64)])
    held = torch.linalg.matrix_exp(whole)[:order]
    return held[:, :order], held[:, order]


def impulse_response(transition: Tensor, entry: Tensor, length: int) -> Tensor:
    """(length, order): A^t B, what is left of a 1 after t steps."""
    states = [entry]
    for _ in range(length - 1):
        states.append(transition @ states[-1])
    return torch.stack(states)


def remembered(signal: Tensor, response: Tensor) -> Tensor:
    """m_t = sum over s <= t of response_(t-s) u_s, by fast Fourier transforms in float32 (float64 for float64).

    Args:
        signal: u, (..., N).
        response: (N, order).

    Returns:
        (..., N, order), in the type of the signal.
    """
    length = signal.shape[-1]
    exact = signal.to(torch.promote_types(signal.dtype, torch.float32))
    spectrum = torch.fft.rfft(exact[..., None], 2 * length, dim=-2) * torch.fft.rfft(response, 2 * length, dim=0)
    return torch.fft.irfft(spectrum, 2 * length, dim=-2)[..., :length, :].to(signal.dtype)


def remembered_reference(signal: Tensor, transition: Tensor, entry: Tensor) -> Tensor:
    """`remembered`, one step after another: (..., N) -> (..., N, order)."""
    memory = signal.new_zeros(*signal.shape[:-1], len(entry))
    memories = []
    for value in signal.unbind(-1):
        memory = memory @ transition.T + value[..., None] * entry
        memories.append(memory)
    return torch.stack(memories, -2)
