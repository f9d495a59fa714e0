"""data_place: the same data, whatever folder one works in."""

from pathlib import Path

import pytest

from ommatid.runs.data_place import data_place


def test_names_stay_names() -> None:
    assert data_place("digits") == "digits"
    assert data_place("torchvision:CIFAR10") == "torchvision:CIFAR10"


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_place("photos") == data_place(Path("photos")) == str(tmp_path / "photos")
    assert data_place("./digits") == str(tmp_path / "digits")
