"""Against stand-ins for torchvision's classes, with the signatures that its own have: nothing here uses a network."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from torchvision import datasets

from ommatid.data import DataError, open_data, read


class Shades:
    """Images (class * 10 + part) grey, four of each of two classes."""

    classes = ("dark", "light")

    def __init__(self, part: int) -> None:
        self.part = part
        self.targets = [0, 1] * 4

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (6, 5), self.targets[index] * 10 + self.part), self.targets[index]


class ByTrain(Shades):
    def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
        if download:
            (Path(root) / "here").touch()
        if not (Path(root) / "here").exists():
            raise RuntimeError("Dataset not found or corrupted.\nUse download=True")
        super().__init__(int(not train))


class BySplit(Shades):
    def __init__(self, root: Path, split: str = "train") -> None:
        super().__init__({"train": 0, "test": 1}[split])


class Offline(Shades):
    def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
        raise RuntimeError("no route to host" if download else "not found")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMMATID_DATA", str(tmp_path))
    for kind in (ByTrain, BySplit, Offline):
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, "ByTrain", "BySplit", "Offline"))


@pytest.mark.parametrize("name", ["ByTrain", "BySplit"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_its_own_parts_are_kept(monkeypatch: pytest.MonkeyPatch, name: str, in_memory: bool) -> None:
    monkeypatch.setattr(read, "MEMORY_BYTES", 10_000 if in_memory else 0)
    data = open_data(f"torchvision:{name}")
    assert (data.classes, data.native_size) == (("dark", "light"), 5)
    assert [len(data.train), len(data.val)] == [8, 8]
    for samples, part in ((data.train, 0), (data.val, 1)):
        for index in range(8):
            image, label = samples[index]
            assert image.getpixel((0, 0)) == (label * 10 + part,) * 3
    assert data.val.paths[3] == f"{name}/val/000003"


def test_a_set_in_one_part_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FakeData", lambda: Shades(0))
    data = open_data("torchvision:FakeData", val_fraction=0.25)
    assert (data.train.counts(), data.val.counts()) == ({"dark": 3, "light": 3}, {"dark": 1, "light": 1})


def test_an_unknown_name_is_told_its_neighbours() -> None:
    with pytest.raises(DataError, match=r"no data set 'Cifar10'; did you mean .*CIFAR10"):
        open_data("torchvision:Cifar10")


def test_a_failed_download_is_one_line() -> None:
    with pytest.raises(DataError, match=r"torchvision:Offline cannot be downloaded to .*: no route to host$"):
        open_data("torchvision:Offline")


def test_what_is_not_classification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FakeData", lambda: [("image", {"boxes": []})])
    with pytest.raises(DataError, match=r"does not give .image, class. pairs"):
        open_data("torchvision:FakeData")
