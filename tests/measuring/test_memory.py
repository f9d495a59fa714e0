"""The peak must be the bytes that lived together, no more and no less."""

import torch
from torch import Tensor

from ommatid.measuring.memory import peak_memory

CPU = torch.device("cpu")
FLOATS = 1000
BYTES = 4 * FLOATS


def peak(call, *existing: Tensor) -> int:
    return peak_memory(call, CPU, existing)


def test_one_tensor() -> None:
    assert peak(lambda: torch.zeros(FLOATS)) == BYTES


def test_tensors_that_live_together_add_up_and_freed_ones_do_not() -> None:
    def together() -> None:
        _first, _second = torch.zeros(FLOATS), torch.zeros(2 * FLOATS)

    def one_after_another() -> None:
        torch.zeros(FLOATS)
        torch.zeros(2 * FLOATS)

    assert peak(together) == 3 * BYTES
    assert peak(one_after_another) == 2 * BYTES


def test_views_and_changes_in_place_take_nothing() -> None:
    def call() -> None:
        torch.zeros(FLOATS).view(10, -1).t().add_(1)

    assert peak(call) == BYTES


def test_what_was_there_before_is_not_counted() -> None:
    weights = torch.zeros(FLOATS)
    assert peak(lambda: weights.view(10, -1).add_(1), weights) == 0
    assert peak(lambda: weights + 1, weights) == BYTES
