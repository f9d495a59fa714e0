from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ommatid.data import DataError
from ommatid.data.record import Record
from ommatid.data.split import apply_split, split_records


def records(**counts: int) -> list[Record]:
    return [Record(f"{label}/{i}", label, None, Path()) for label, count in counts.items() for i in range(count)]


def test_every_class_is_divided_in_the_same_proportion() -> None:
    divided = split_records(records(a=100, b=10, c=2), seed=0, val_fraction=0.2)
    assert Counter((r.label, r.split) for r in divided) == {
        ("a", "val"): 20,
        ("a", "train"): 80,
        ("b", "val"): 2,
        ("b", "train"): 8,
        ("c", "val"): 1,
        ("c", "train"): 1,
    }


def test_the_seed_alone_decides() -> None:
    first, again, other = (split_records(records(a=50), seed=seed, val_fraction=0.2) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_single_image_is_trained_on_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"class 'b' has a single image"):
        divided = split_records(records(a=5, b=1), seed=0, val_fraction=0.9)
    assert [r.split for r in divided if r.label == "b"] == ["train"]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 20])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError, match=r"val_fraction is .*; allowed: between 0 and 1"):
        split_records(records(a=5), seed=0, val_fraction=fraction)


def test_a_recorded_split_is_followed_in_its_order() -> None:
    applied = apply_split(records(a=4), {"train": ["a/3", "a/0"], "val": ["a/1"]})
    assert [(r.name, r.split) for r in applied] == [("a/3", "train"), ("a/0", "train"), ("a/1", "val")]


def test_a_recorded_image_that_is_gone() -> None:
    with pytest.raises(DataError, match=r"1 of the 2 images in the recorded split are missing.*a/9"):
        apply_split(records(a=4), {"train": ["a/0"], "val": ["a/9"]})


def test_a_split_that_is_none() -> None:
    with pytest.raises(DataError, match=r"lists 'train' and 'val'"):
        apply_split(records(a=4), {"train": ["a/0"]})
