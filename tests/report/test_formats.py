import math

import pytest

from ommatid.report.formats import count, duration, fixed, percent, plain, short_name, significant, whole


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (significant, 0.012345, "0.0123"),
        (significant, 4.2149, "4.21"),
        (significant, 38.46, "38.5"),
        (significant, 1234.4, "1\u202f234"),
        (significant, 0, "0"),
        (percent, 0.9714, "97.1\u202f%"),
        (percent, 0, "0.0\u202f%"),
        (count, 28_288_354, "28.3\u202fM"),
        (count, 4.5e9, "4.50\u202fG"),
        (count, 812, "812"),
        (count, 0, "0"),
        (whole, 14703, "14\u202f703"),
        (fixed, 0.25149, "0.251"),
        (duration, 8.21, "8.21 s"),
        (duration, 200, "3 min 20 s"),
        (duration, 7500, "2 h 5 min"),
        (plain, "text", "text"),
    ],
)
def test_numbers_as_people_read_them(write, value, text):
    assert write(value) == text


@pytest.mark.parametrize("write", [significant, percent, count, whole, fixed, duration, plain])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash(write, value):
    assert write(value) == "–"


def test_long_names_are_cut():
    assert short_name("a" * 20) == "a" * 20
    assert short_name("a" * 21) == "a" * 19 + "…"
