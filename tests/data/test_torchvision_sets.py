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
        if split not in ("train", "test"):
            raise ValueError(f"Unknown value '{split}' for argument split.")
        super().__init__(int(split == "test"))


class ByTrainval(Shades):
    def __init__(self, root: Path, split: str = "trainval") -> None:
        super().__init__(("trainval", "test", "val").index(split))


class Offline(Shades):
    def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
        raise RuntimeError("no route to host" if download else "not found")


class HalfOffline(BySplit):
    def __init__(self, root: Path, split: str = "train", download: bool = False) -> None:
        super().__init__(root, split)
        if split == "test":
            raise RuntimeError("no route to host" if download else "not found")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMMATID_DATA", str(tmp_path))
    for kind in (ByTrain, BySplit, ByTrainval, Offline, HalfOffline):
        monkeypatch.setattr(datasets, kind.__name__, kind, raising=False)
    monkeypatch.setattr(
        datasets, "__all__", (*datasets.__all__, "ByTrain", "BySplit", "ByTrainval", "Offline", "HalfOffline")
    )


@pytest.mark.parametrize("name", ["ByTrain", "BySplit", "ByTrainval"])
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
    assert data.may_flip


def test_writing_may_not_be_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MNIST", ByTrain)
    assert not open_data("torchvision:MNIST").may_flip


def test_a_set_in_one_part_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FakeData", lambda: Shades(0))
    data = open_data("torchvision:FakeData", val_fraction=0.25)
    assert (data.train.counts(), data.val.counts()) == ({"dark": 3, "light": 3}, {"dark": 1, "light": 1})


def test_an_unknown_name_is_told_its_neighbours() -> None:
    with pytest.raises(DataError, match=r"no data set 'Cifar10'; did you mean .*CIFAR10"):
        open_data("torchvision:Cifar10")


@pytest.mark.parametrize("name", ["Offline", "HalfOffline"])
def test_a_failed_download_is_one_line(name: str) -> None:
    with pytest.raises(DataError, match=rf"torchvision:{name} cannot be downloaded to .*: no route to host$"):
        open_data(f"torchvision:{name}")


def test_what_is_not_classification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FakeData", lambda: [("image", {"boxes": []})])
    with pytest.raises(DataError, match=r"does not give .image, class. pairs"):
        open_data("torchvision:FakeData")
