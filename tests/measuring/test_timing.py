"""Timing must alternate, stop in time, and leave the number of threads as it was."""

import time

import pytest
import torch

from ommatid.measuring.timing import MINIMUM_ROUNDS, alternate, quartiles, repeat, thread_count

CPU = torch.device("cpu")


def test_calls_take_turns_after_warming_up() -> None:
    order: list[str] = []
    times = alternate([lambda: order.append("a"), lambda: order.append("b")], CPU, rounds=4, seconds=60)
    assert len(times) == 4
    assert order[-8:] == ["a", "b"] * 4
    assert len(order) > 8


def test_durations_are_in_seconds() -> None:
    (taken, *_) = repeat(lambda: time.sleep(0.02), CPU, rounds=1, seconds=60)
    assert 0.02 <= taken < 1


def test_a_spent_budget_leaves_the_least_number_of_rounds() -> None:
    assert len(repeat(lambda: time.sleep(0.001), CPU, rounds=1000, seconds=0)) == MINIMUM_ROUNDS


def test_quartiles_of_known_values() -> None:
    assert quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (3.0, 2.0, 4.0)


def test_thread_count_is_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with thread_count(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before
