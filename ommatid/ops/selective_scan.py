"""Selective scan: a linear recurrence per channel whose decay, input and readout are computed from the sequence itself.

Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752), with the input term
`delta * B * u` that its implementations use.

The fast version cuts a section of the sequence into chunks of T steps and advances all of them together. A first pass
finds the state at the end of every chunk that started from zero, a short loop over the chunks turns those into the
true states at their starts, and a second pass fills in the states. A section is as long as fits a cache. No decay is
ever inverted, so nothing overflows whatever the step sizes.

Training keeps the inputs and the states at the starts of the sections; the backward pass computes the states again,
one section at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ommatid.ops.recurrence import linear_recurrence

# States of a section: 2 MiB in float32, which stay in the caches of a CPU between the passes over them.
SECTION_STATES = 2**19
# States of one step over all chunks: fewer, and the time goes into calls; more, and chunks are too short.
STEP_STATES = 2**14
# Chunks take a pass more over the states: it costs more than fewer calls save where they are only a few.
FEWEST_CHUNKS = 8

Steps = Sequence[Tensor]


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:  # noqa: N803
    """y_t = C_t h_t + D u_t with h_t = exp(delta_t A) h_(t-1) + delta_t B_t u_t and h_0 = 0, chunk by chunk.

    Computed in float32 (float64 for float64 inputs), also under autocast. Memory grows linearly with L, and what is
    kept for the backward pass hardly grows with N.

    Args:
        u: (B, K, L, E), K independent sequences of E channels.
        delta: (B, K, L, E), step sizes, positive.
        A: (K, E, N), negative; N is the size of the state of each channel.
        B: (B, K, L, N), what enters the state.
        C: (B, K, L, N), what is read from it.
        D: (K, E), the direct path.

    Returns:
        (B, K, L, E), in the type of u.

    Raises:
        ValueError: shapes that do not fit together.
    """
    _check(u, delta, A, B, C, D)
    length = u.shape[2]
    exporting = torch.compiler.is_exporting()
    # A program serves any number of images, and is the shorter the fewer steps there are.
    cut = _plan(length, states=1 if exporting else len(u) * A.numel())
    padding = (0, 0, 0, math.prod(cut) - length)  # zeros at the end change nothing
    with torch.autocast(u.device.type, enabled=False):
        inputs = [x.to(torch.promote_types(u.dtype, torch.float32)) for x in (u, delta, A, B, C, D)]
        signal, step, decay, write, read, direct = inputs
        sequences = (F.pad(x, padding) if padding[-1] else x for x in (signal * step, step, write, read))
        entering, steps, writes, reads = sequences
        scan = _exported_scan if exporting else _Scan.apply
        scanned = scan(decay.mT.contiguous(), entering, steps, writes, reads, cut)[:, :, :length]
        return torch.addcmul(scanned, direct[:, None], signal).to(u.dtype)


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
    D: Tensor,  # noqa: N803
) -> Tensor:
    """`selective_scan`, step by step."""
    _check(u, delta, A, B, C, D)
    state = torch.zeros_like(A).expand(len(u), *A.shape)
    outputs = []
    for u_t, delta_t, B_t, C_t in zip(*(x.unbind(2) for x in (u, delta, B, C)), strict=True):  # noqa: N806
        state = torch.exp(delta_t[..., None] * A) * state + (delta_t * u_t)[..., None] * B_t[..., None, :]
        outputs.append((state * C_t[..., None, :]).sum(-1) + D * u_t)
    return torch.stack(outputs, dim=2)


class _Scan(torch.autograd.Function):
    """sum_n C_t[n] h_t[n] with h_t = exp(delta_t A) h_(t-1) + x_t B_t.

    x, delta: (B, K, L, E). A: (K, N, E). B, C: (B, K, L, N). Channels are last everywhere: their axis is the longest.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, x: Tensor, delta: Tensor, B: Tensor, C: Tensor, cut: _Cut) -> Tensor:  # noqa: N803
        decay, states = _workspaces(2, A, x, cut)
        decay_steps, state_steps, rate = decay.unbind(), states.unbind(), _base_2(A)
        output, before = torch.empty_like(x), [x.new_zeros(x.shape[0], *A.shape)]
        for x_s, delta_s, B_s, C_s, output_s in _sections((x, delta, B, C, output), cut):  # noqa: N806
            _decay_into(decay, delta_s, rate)
            _outer_into(states, B_s, x_s)
            start = _chunk_starts(decay_steps, state_steps, _total_decay(delta_s, rate), before[-1])
            _fill_forwards(decay_steps, state_steps, start)
            output_s.copy_(_read(C_s, states))
            before.append(states[-1, :, :, -1].clone())
        ctx.save_for_backward(A, x, delta, B, C, *before[:-1])
        ctx.cut = cut
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        A, x, delta, B, C, *before = ctx.saved_tensors  # noqa: N806
        decay, states, adjoint = _workspaces(3, A, x, ctx.cut)  # the adjoint of a state is d loss / d state
        decay_steps, state_steps, adjoint_steps = decay.unbind(), states.unbind(), adjoint.unbind()
        rate, later = _base_2(A), torch.zeros_like(before[0])
        grad_A, grads = torch.zeros_like(A), [torch.empty_like(y) for y in (x, delta, B, C)]  # noqa: N806
        sections = zip(_sections((x, delta, B, C, grad, *grads), ctx.cut), before, strict=True)
        for (x_s, delta_s, B_s, C_s, grad_s, *grads_s), state in reversed(list(sections)):  # noqa: N806
            _decay_into(decay, delta_s, rate)
            _outer_into(states, B_s, x_s)
            total = _total_decay(delta_s, rate)
            start = _chunk_starts(decay_steps, state_steps, total, state)
            _fill_forwards(decay_steps, state_steps, start)
            _outer_into(adjoint, C_s, grad_s)
            end = _chunk_ends(decay_steps, adjoint_steps, total, later)
            _fill_backwards(decay_steps, adjoint_steps, end)
            later = decay[0, :, :, 0] * adjoint[0, :, :, 0]

            grad_x, grad_B, grad_C = _read(B_s, adjoint), _weigh(adjoint, x_s), _weigh(states, grad_s)  # noqa: N806
            exponent = adjoint.mul_(decay)  # becomes d loss / d (delta A)
            exponent[1:].mul_(states[:-1])
            exponent[0].mul_(start)
            grad_A += torch.mul(exponent, delta_s.unsqueeze(-2), out=states).sum((0, 1, 3))  # noqa: N806
            grad_delta = exponent.mul_(A[:, None]).sum(-2)
            for whole, part in zip(grads_s, (grad_x, grad_delta, grad_B, grad_C), strict=True):
                whole.copy_(part)
        return grad_A, *grads, None


def _exported_scan(A: Tensor, x: Tensor, delta: Tensor, B: Tensor, C: Tensor, cut: _Cut) -> Tensor:  # noqa: N803
    """`_Scan` for a program, which cannot write into a view: each time it would copy all that the view is of."""
    rate, outputs, before = _base_2(A), [], x.new_zeros(x.shape[0], *A.shape)
    for x_s, delta_s, B_s, C_s in _sections((x, delta, B, C), cut):  # noqa: N806
        decay = torch.mul(delta_s.unsqueeze(-2), rate).exp2().unbind()
        entering = torch.mul(B_s.unsqueeze(-1), x_s.unsqueeze(-2)).unbind()
        start = _chunk_starts(decay, entering, _total_decay(delta_s, rate), before)
        states = torch.stack(linear_recurrence(decay, entering, start)[1:])
        outputs.append(_read(C_s, states))
        before = states[-1, :, :, -1]
    return torch.stack(outputs).permute(2, 3, 0, 4, 1, 5).flatten(2, 4)


class _Cut(NamedTuple):
    """A sequence as `sections` sections of `chunks` chunks of `steps` steps."""

    sections: int
    chunks: int
    steps: int


def _plan(length: int, states: int) -> _Cut:
    """How to cut a sequence with `states` states at every step, best without a remainder."""
    section = _divisor_or(length, max(1, SECTION_STATES // max(1, states)))
    together = STEP_STATES // max(1, states)
    chunks = _divisor_or(section, min(together, math.isqrt(section))) if together >= FEWEST_CHUNKS else 1
    steps = math.ceil(section / chunks)
    return _Cut(math.ceil(length / (chunks * steps)), chunks, steps)


def _divisor_or(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`, or `limit` itself where all those divisors are small."""
    limit = min(limit, number)
    divisor = next(candidate for candidate in range(limit, 0, -1) if number % candidate == 0)
    return divisor if 2 * divisor > limit else limit


def _sections(sequences: Sequence[Tensor], cut: _Cut) -> list[tuple[Tensor, ...]]:
    """For every section: a view of each sequence (B, K, L, F) as (steps, B, K, chunks, F)."""
    return list(zip(*(x.unflatten(2, cut).permute(2, 4, 0, 1, 3, 5).unbind() for x in sequences), strict=True))


def _workspaces(count: int, A: Tensor, x: Tensor, cut: _Cut) -> tuple[Tensor, ...]:  # noqa: N803
    """Room for one number per state of a section, `count` times. New memory in every section would cost more time
    (page faults) than all the arithmetic on it.
    """
    sequences, size, channels = A.shape
    return tuple(x.new_empty(cut.steps, x.shape[0], sequences, cut.chunks, size, channels) for _ in range(count))


def _decay_into(out: Tensor, delta: Tensor, rate: Tensor) -> None:
    """exp(delta A) as a power of 2: on a CPU `exp` takes 2.5 times as long as `exp2`, and most of the whole scan."""
    torch.mul(delta.unsqueeze(-2), rate, out=out).exp2_()


def _outer_into(out: Tensor, vector: Tensor, channels: Tensor) -> None:
    """(..., N), (..., E) -> (..., N, E)."""
    torch.mul(vector.unsqueeze(-1), channels.unsqueeze(-2), out=out)


def _read(vector: Tensor, states: Tensor) -> Tensor:
    """(..., N), (..., N, E) -> (..., E)."""
    return (vector.unsqueeze(-2) @ states).squeeze(-2)


def _weigh(states: Tensor, channels: Tensor) -> Tensor:
    """(..., N, E), (..., E) -> (..., N)."""
    return (channels.unsqueeze(-2) @ states.mT).squeeze(-2)


def _total_decay(delta: Tensor, rate: Tensor) -> Tensor:
    """(B, K, chunks, N, E): the decay over each whole chunk."""
    return torch.mul(delta.sum(0).unsqueeze(-2), rate).exp2_()


def _base_2(A: Tensor) -> Tensor:  # noqa: N803
    """(K, 1, N, E): A / log 2, beside an axis of chunks."""
    return (A * math.log2(math.e)).unsqueeze(1)


def _chunk_starts(decay: Steps, entering: Steps, total: Tensor, first: Tensor) -> Tensor:
    """(B, K, chunks, N, E): the state before every chunk; `first` is that before the first."""
    if total.shape[2] == 1:
        return first.unsqueeze(2)
    state = entering[0]
    for decay_t, entering_t in zip(decay[1:], entering[1:], strict=True):
        state = torch.addcmul(entering_t, decay_t, state)
    return torch.stack(linear_recurrence(total.unbind(2)[:-1], state.unbind(2)[:-1], first), dim=2)


def _chunk_ends(decay: Steps, entering: Steps, total: Tensor, last: Tensor) -> Tensor:
    """(B, K, chunks, N, E): the adjoint that reaches every chunk from behind it; `last` is that of the last."""
    if total.shape[2] == 1:
        return last.unsqueeze(2)
    adjoint = entering[-1].clone()
    for decay_t, entering_t in zip(decay[:0:-1], entering[-2::-1], strict=True):
        torch.addcmul(entering_t, decay_t, adjoint, out=adjoint)
    adjoint.mul_(decay[0])
    ends = linear_recurrence(total.unbind(2)[:0:-1], adjoint.unbind(2)[:0:-1], last)
    return torch.stack(ends[::-1], dim=2)


def _fill_forwards(decay: Steps, states: Steps, before: Tensor) -> None:
    """Turns what enters at every step into the state after it, in place."""
    for decay_t, state in zip(decay, states, strict=True):
        before = state.addcmul_(decay_t, before)


def _fill_backwards(decay: Steps, adjoint: Steps, after: Tensor) -> None:
    """Turns what enters at every step into the adjoint of its state, in place."""
    after = adjoint[-1].add_(after)
    for decay_t, before in zip(decay[:0:-1], adjoint[-2::-1], strict=True):
        after = before.addcmul_(decay_t, after)


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> None:  # noqa: N803
    if u.dim() != 4 or u.shape[2] == 0 or delta.shape != u.shape:
        shapes = f"{tuple(u.shape)} and {tuple(delta.shape)}"
        raise ValueError(f"u and delta must share one shape (batch, sequences, length > 0, channels), got {shapes}")
    batch, sequences, length, channels = u.shape
    if A.dim() != 3 or A.shape[:2] != (sequences, channels) or D.shape != (sequences, channels):
        wanted, shapes = (sequences, channels), f"{tuple(A.shape)} and {tuple(D.shape)}"
        raise ValueError(f"A must have the shape {(*wanted, 'N')} and D the shape {wanted}, got {shapes}")
    inner = (batch, sequences, length, A.shape[2])
    if B.shape != inner or C.shape != inner:
        raise ValueError(f"B and C must have the shape {inner}, got {tuple(B.shape)} and {tuple(C.shape)}")
