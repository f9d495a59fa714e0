"""One way to say how much accuracy may be lost."""

from __future__ import annotations

import pytest

from ommatid.workflows.tolerance import parse_tolerance


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("1 point", 0.01),
        ("0.5 points", 0.005),
        ("0.5points", 0.005),
        ("2%", 0.02),
        (" 1 ", 0.01),
        ("3.", 0.03),
        (".5", 0.005),
        ("0", 0.0),
    ],
)
def test_points_in_any_of_the_usual_ways(text: str, share: float) -> None:
    assert parse_tolerance(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["a bit", "", "-1 point", "1.2.3", ".", "1 pint"])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="points of accuracy"):
        parse_tolerance(text)
