"""The scan of Mamba-2: a linear recurrence whose state forgets at one rate per head, computed as masked attention.

Source: "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality"
(arXiv 2405.21060).

    S_t = exp(delta_t A) S_(t-1) + delta_t x_t B_t^T,    y_t = S_t C_t
    y_t = sum over s <= t of exp(A (delta_(s+1) + ... + delta_t)) (C_t . B_s) delta_s x_s

The fast version works in chunks: inside one it is the second line, which is products of matrices, and the state is
carried from chunk to chunk. B and C are the same for all heads, so all heads share one product.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.recurrence import linear_recurrence


def scalar_decay_scan(
    x: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    *,
    chunk_size: int = 32,
) -> Tensor:
    """The scan from chunks; in float32 (float64 for float64 inputs), also under autocast.

    Cost: (chunk (d + n / heads) + 2 d n) L multiply-adds a head, and chunk L exponentials.

    Args:
        x: (B, L, heads, d).
        delta: (B, L, heads), step sizes, positive.
        A: (heads,), negative.
        B, C: (B, L, n), what enters the state and what is read from it.
        chunk_size: the result does not depend on it; of 16 to 128 the default is the fastest on a CPU.

    Returns:
        (B, L, heads, d), in the type of x.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check(x, delta, A, B, C)
    length, chunk = x.shape[1], min(chunk_size, x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        steps = _in_float(delta)
        entering = _in_float(x) * steps.unsqueeze(-1)
        sequences = (entering, steps * _in_float(A), _in_float(B), _in_float(C))
        # Zeros at the end change nothing: there nothing enters, and nothing is forgotten.
        chunks = [F.pad(s.flatten(2), (0, 0, 0, -length % chunk)).unflatten(1, (-1, chunk)) for s in sequences]
        return _scan_chunks(*chunks).flatten(1, 2)[:, :length].view(x.shape).to(x.dtype)


def scalar_decay_scan_reference(
    x: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
) -> Tensor:
    """`scalar_decay_scan`, step by step."""
    _check(x, delta, A, B, C)
    entering = (delta.unsqueeze(-1) * x).unsqueeze(-1) * B[:, :, None, None]  # (B, L, heads, d, n)
    decay = (delta * A).exp()[..., None, None]
    states = linear_recurrence(decay.unbind(1), entering.unbind(1), torch.zeros_like(entering[:, 0]))
    return (torch.stack(states[1:], dim=1) @ C[:, :, None, :, None]).squeeze(-1)


def _scan_chunks(entering: Tensor, log_decay: Tensor, B: Tensor, C: Tensor) -> Tensor:  # noqa: N803
    """(B, chunks, chunk, heads d), (B, chunks, chunk, heads) and twice (B, chunks, chunk, n) -> as the first."""
    heads, size = log_decay.shape[-1], log_decay.shape[-2]
    since_start = log_decay.mT.cumsum(-1)  # (B, chunks, heads, chunk), each token's own decay with it
    earlier = torch.ones(size, size, dtype=torch.bool, device=B.device).tril()
    between = (since_start.unsqueeze(-1) - since_start.unsqueeze(-2)).masked_fill(~earlier, -math.inf)
    reach = between.exp() * (C @ B.mT).unsqueeze(2)  # (B, chunks, heads, t, s)
    by_head = entering.unflatten(-1, (heads, -1))
    inside = (reach @ by_head.transpose(2, 3)).transpose(2, 3)

    to_end = (since_start[..., -1:] - since_start).exp().mT.unsqueeze(-1)  # (B, chunks, chunk, heads, 1)
    left = B.mT @ (by_head * to_end).flatten(-2)  # (B, chunks, n, heads d)
    decay = since_start.exp()
    whole = decay[..., -1:].expand(-1, -1, -1, by_head.shape[-1]).flatten(2).unsqueeze(2)
    states = linear_recurrence(whole.unbind(1)[:-1], left.unbind(1)[:-1], torch.zeros_like(left[:, 0]))
    carried = (C @ torch.stack(states, dim=1)).unflatten(-1, (heads, -1)) * decay.mT.unsqueeze(-1)
    return (inside + carried).flatten(-2)


def _in_float(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:  # noqa: N803
    if x.dim() != 4 or x.shape[1] == 0 or delta.shape != x.shape[:3] or A.shape != x.shape[2:3]:
        shapes = ", ".join(str(tuple(given.shape)) for given in (x, delta, A))
        raise ValueError(
            f"x, delta and A must be (batch, length > 0, heads, d), (batch, length, heads), (heads,), got {shapes}"
        )
    if B.dim() != 3 or B.shape != C.shape or B.shape[:2] != x.shape[:2]:
        wanted, shapes = (*x.shape[:2], "n"), f"{tuple(B.shape)} and {tuple(C.shape)}"
        raise ValueError(f"B and C must have the shape {wanted}, got {shapes}")
