"""The scan of Mamba-2 in chunks, against the recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ommatid.ops.state_space_duality import scalar_decay_scan, scalar_decay_scan_reference


def sequences(length: int, *, fastest: float = 3.0) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    x, delta = torch.randn(2, length, 3, 4).double(), fastest * torch.rand(2, length, 3).double()
    A, B, C = -torch.rand(3).double(), torch.randn(2, length, 5).double(), torch.randn(2, length, 5).double()  # noqa: N806
    return tuple(given.requires_grad_() for given in (x, delta, A, B, C))


@pytest.mark.parametrize("length", [1, 7, 16, 33])
def test_chunks_give_the_recurrence_and_its_gradients(length: int) -> None:
    inputs = sequences(length)
    fast, plain = scalar_decay_scan(*inputs, chunk_size=8), scalar_decay_scan_reference(*inputs)
    torch.testing.assert_close(fast, plain)
    probe = torch.randn_like(fast)
    mine, theirs = (torch.autograd.grad((out * probe).sum(), inputs) for out in (fast, plain))
    torch.testing.assert_close(mine, theirs)


def test_a_decay_to_nothing_stays_finite() -> None:
    inputs = sequences(40, fastest=1e4)
    torch.testing.assert_close(scalar_decay_scan(*inputs), scalar_decay_scan_reference(*inputs))


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, delta, A, B, C = sequences(4)  # noqa: N806
    with pytest.raises(ValueError, match="B and C must have the shape"):
        scalar_decay_scan(x, delta, A, B[:, 1:], C)
    with pytest.raises(ValueError, match="x, delta and A must be"):
        scalar_decay_scan(x, delta[..., 1:], A, B, C)
