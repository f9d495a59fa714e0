from __future__ import annotations

import pytest

from ommatid.data.errors import DataError, Skipped, UnreadableImageError
from ommatid.data.tolerant import Tolerant


def reader(broken: set[int]) -> tuple[Tolerant[int], list[Skipped]]:
    def read(place: int) -> int:
        if place in broken:
            raise UnreadableImageError("torn")
        return place * 10

    skipped: list[Skipped] = []
    return Tolerant(["a", "b", "c"], read, skipped), skipped


def test_reads_what_is_there() -> None:
    readable, skipped = reader(set())
    assert [readable.at(index) for index in (0, 2, -1)] == [(0, 0), (2, 20), (2, 20)]
    assert skipped == []


def test_the_next_takes_the_place_of_what_cannot_be_read_and_it_is_named_once() -> None:
    readable, skipped = reader({2})
    with pytest.warns(UserWarning, match="c is skipped: torn"):
        assert readable.at(2) == (0, 0)
    assert readable.at(2) == (0, 0)
    assert skipped == [("c", "torn")]


def test_what_is_left_out_is_not_tried() -> None:
    readable, skipped = reader(set())
    with pytest.warns(UserWarning, match="a is skipped: small"):
        readable.leave_out(0, "small")
    readable.leave_out(0, "small")
    assert readable.at(0) == (1, 10)
    assert skipped == [("a", "small")]


def test_nothing_to_read_and_no_such_sample_are_errors() -> None:
    readable, _ = reader({0, 1, 2})
    with pytest.warns(UserWarning, match="torn"), pytest.raises(DataError, match="none of the 3 images"):
        readable.at(1)
    with pytest.raises(IndexError):
        readable.at(3)
