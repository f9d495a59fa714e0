from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ommatid.data import open_data, read
from ommatid.data.folder import list_folder
from ommatid.data.read import read_records


def test_small_data_is_decoded_into_memory(make_folder: Callable[..., Path]) -> None:
    records, skipped, size = read_records(list_folder(make_folder(cat=3)).records)
    assert [record.source.shape for record in records] == [(8, 8, 3)] * 3
    assert (skipped, size) == ([], 8)


@pytest.mark.parametrize("limit", ["MEMORY_BYTES", "MEMORY_IMAGES"])
def test_large_data_stays_on_disk(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    root = make_folder(cat=4, dog=4)
    (root / "cat" / "empty.png").touch()
    in_memory = open_data(root)
    monkeypatch.setattr(read, limit, 1)
    on_disk = open_data(root)
    assert all(isinstance(record.source, Path) for record in read_records(list_folder(root).records)[0])
    assert on_disk.skipped == in_memory.skipped
    assert on_disk.split() == in_memory.split()
    assert all(np.array_equal(on_disk.train[i][0], in_memory.train[i][0]) for i in range(len(on_disk.train)))
