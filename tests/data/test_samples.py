from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ommatid.data import DataError, Samples, open_data, read
from ommatid.data.folder import list_folder


@pytest.fixture
def on_disk(make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Samples:
    monkeypatch.setattr(read, "MEMORY_BYTES", 0)
    return open_data(make_folder(**{"train/cat": 2, "train/dog": 2, "val/cat": 1}) / ".").train


def test_image_tensor_and_names_agree(make_folder: Callable[..., Path]) -> None:
    samples = Samples(list_folder(make_folder(cat=2, dog=1)).records, ("dog", "cat"), [])
    image, label = samples[2]
    pixels, same = samples.tensor(2)
    assert (samples.paths[2], label, same) == ("dog/00.png", 0, 0)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 8, 8))
    assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())
    assert samples.counts() == {"dog": 1, "cat": 2}


def test_iteration_ends(on_disk: Samples) -> None:
    assert [label for _, label in on_disk] == on_disk.labels
    with pytest.raises(IndexError):
        on_disk[4]


def test_a_file_lost_after_opening_is_replaced_by_the_next(on_disk: Samples, make_folder: Callable[..., Path]) -> None:
    (make_folder() / on_disk.paths[1]).unlink()
    with pytest.warns(UserWarning, match=r"train/cat/01.png is skipped: no such file"):
        image, label = on_disk[1]
    assert np.array_equal(image, on_disk[2][0])
    assert (label, on_disk.labels[1]) == (1, 0)
    on_disk[1]
    assert on_disk.skipped == [("train/cat/01.png", "no such file")]


def test_the_last_is_replaced_by_the_first(on_disk: Samples, make_folder: Callable[..., Path]) -> None:
    (make_folder() / on_disk.paths[3]).unlink()
    with pytest.warns(UserWarning, match=r"is skipped"):
        assert np.array_equal(on_disk[3][0], on_disk[0][0])


def test_all_files_lost(on_disk: Samples, make_folder: Callable[..., Path]) -> None:
    for path in on_disk.paths:
        (make_folder() / path).unlink()
    with (
        pytest.warns(UserWarning, match="is skipped"),
        pytest.raises(DataError, match=r"none of the 4 images can be read any more"),
    ):
        on_disk[0]
