"""The phases of a super-network's training, and what may be drawn in each."""

from __future__ import annotations

import random

import pytest

from ommatid.methods.progressive_shrinking import phases, random_setting, schedule, smallest
from ommatid.models.subnets import OnceForAllConfig

CONFIG = OnceForAllConfig()


def test_choices_are_freed_in_the_published_order() -> None:
    found = [(phase.kernel_sizes, phase.depths, phase.expand_ratios, phase.draws) for phase in phases(CONFIG)]
    assert found == [
        ((7,), (4,), (6,), 1),
        ((7, 5, 3), (4,), (6,), 1),
        ((7, 5, 3), (4, 3), (6,), 2),
        ((7, 5, 3), (4, 3, 2), (6,), 2),
        ((7, 5, 3), (4, 3, 2), (6, 4), 4),
        ((7, 5, 3), (4, 3, 2), (6, 4, 3), 4),
    ]
    assert [phase.epochs for phase in phases(CONFIG)] == [180, 125, 25, 125, 25, 125]
    assert [round(phase.rate, 2) for phase in phases(CONFIG)] == [1.0, 0.61, 0.18, 0.3, 0.18, 0.3]
    assert [phase.sort_stage for phase in phases(CONFIG)] == [None, None, None, None, 0, 1]


@pytest.mark.parametrize(("steps", "full"), [(605, 0.3), (3, 0.3), (1, 0.5), (100, 0.0)])
def test_each_step_is_in_one_phase_and_the_last_in_the_last(steps: int, full: float) -> None:
    made = schedule(CONFIG, steps, full=full)
    numbers = [made.number(step) for step in range(steps)]
    assert numbers == sorted(numbers)
    assert all(step in made.steps(number) for step, number in enumerate(numbers))
    assert sum(len(made.steps(number)) for number in range(len(made.phases))) == steps
    assert numbers.count(0) == round(steps * full)


def test_what_has_no_choice_has_no_phase() -> None:
    (only,) = phases(OnceForAllConfig(kernel_sizes=(5,), depths=(2,), expand_ratios=(4,)))
    assert (only.kernel_sizes, only.depths, only.expand_ratios) == ((5,), (2,), (4,))
    assert schedule(only, 10, full=0.3).number(9) == 0


def test_what_is_drawn_is_possible_in_its_phase() -> None:
    phase, chance = phases(CONFIG)[2], random.Random(0)
    drawn = [random_setting(phase, chance) for _ in range(20)]
    assert {depth for setting in drawn for depth in setting.depths} == {3, 4}
    assert {ratio for setting in drawn for ratio in setting.expands} == {6}
    assert smallest(CONFIG).depths == (2,) * 5
