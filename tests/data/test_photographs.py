from __future__ import annotations

import socket

import numpy as np
import pytest

from ommatid.data.photographs import list_photographs


def test_real_photographs_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    records = list_photographs().records
    assert len(records) == 14
    for record in records:
        assert isinstance(record.source, np.ndarray)
        assert record.source.dtype == np.uint8
        assert record.source.shape[2] == 3
        assert min(record.source.shape[:2]) >= 300


def test_training_and_validation_share_no_scene() -> None:
    parts = {record.name: record.split for record in list_photographs().records}
    assert list(parts.values()).count("val") == 3
    assert parts["photographs/motorcycle-left"] == parts["photographs/motorcycle-right"] == "train"
