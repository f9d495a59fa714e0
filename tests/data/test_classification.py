from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ommatid.data import DataError, Skipped, open_data, open_evaluation

from .conftest import write_image


def test_digits_are_there_without_a_file() -> None:
    data = open_data("digits")
    assert data.classes == tuple("0123456789")
    assert (len(data.train) + len(data.val), data.native_size, data.origin) == (1797, 8, "digits")
    assert not data.may_flip
    assert 0.19 < len(data.val) / 1797 < 0.21
    image, label = data.train[0]
    assert (image.mode, image.size) == ("RGB", (8, 8))
    assert data.classes[label] in "0123456789"
    assert np.asarray(image).max() > 200


def test_real_images_with_their_own_split(cifar10: Path) -> None:
    data = open_data(cifar10)
    assert (len(data.train), len(data.val), len(data.classes), data.native_size) == (10_000, 2_000, 10, 32)
    assert set(data.train.counts().values()) == {1000}
    assert data.skipped == []
    index = data.val.labels.index(data.classes.index("frog"))
    path = cifar10 / data.val.paths[index]
    assert path.parent.name == "frog"
    assert np.array_equal(np.asarray(data.val[index][0]), np.asarray(Image.open(path)))


def test_the_split_opens_again_exactly(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=10, dog=10)
    first = open_data(root, seed=5)
    recorded = json.loads(json.dumps(first.split()))
    write_image(root / "ant" / "new.png")
    write_image(root / "cat" / "new.png")
    again = open_data(root, seed=6, split=recorded)
    assert again.split() == first.split()
    assert again.fingerprint() == first.fingerprint()
    assert [again.val.labels, again.classes] == [first.val.labels, first.classes]
    assert all(np.array_equal(first.val[i][0], again.val[i][0]) for i in range(len(first.val)))


def test_the_fingerprint_tells_data_and_splits_apart(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=10, dog=10)
    prints = [open_data(root, seed=seed).fingerprint() for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    (root / "cat" / "00.png").rename(root / "dog" / "cat.png")
    assert open_data(root).fingerprint() != prints[0]


def test_the_fingerprint_tells_labels_apart(make_folder: Callable[..., Path]) -> None:
    root = make_folder(a=4)
    prints = []
    for labels in ("xyxy", "xyyx"):
        rows = [f"a/0{index}.png,{label},{'train' if index < 3 else 'val'}" for index, label in enumerate(labels)]
        (root / "labels.csv").write_text("\n".join(["path,label,split", *rows]))
        prints.append(open_data(root / "labels.csv").fingerprint())
    assert prints[0] != prints[1]


def test_bad_files_are_named_and_the_rest_is_used(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=4, dog=4)
    (root / "cat" / "empty.jpg").touch()
    (root / "dog" / "text.jpg").write_text("no image")
    cut = write_image(root / "dog" / "cut.jpg", size=64)
    cut.write_bytes(cut.read_bytes()[:-800])
    (root / "dog" / "gone.png").symlink_to(root / "nowhere.png")
    data = open_data(root)
    assert len(data.train) + len(data.val) == 8
    assert {(s.path, s.reason.split(":")[0]) for s in data.skipped} == {
        ("cat/empty.jpg", "empty"),
        ("dog/text.jpg", "not an image"),
        ("dog/cut.jpg", "truncated or damaged"),
        ("dog/gone.png", "no such file"),
    }
    assert data.train.skipped is data.skipped


def test_missing_files_of_a_table_are_counted(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=2, dog=2)
    rows = [f"{label}/0{i}.png,{label}" for label in ("cat", "dog") for i in range(2)]
    (root / "labels.csv").write_text("\n".join(["path,label", *rows, "cat/99.png,cat"]))
    data = open_data(root / "labels.csv")
    assert (len(data.train), len(data.val)) == (2, 2)
    assert data.skipped == [Skipped("cat/99.png", "no such file")]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 3}, "single class 'cat'; put images of a second class"),
        (
            {"train/cat": 2, "train/dog": 2, "val/cow": 1},
            "label 'cow' was never seen in training .which has 'cat', 'dog'.",
        ),
        ({"train/cat": 2, "train/dog": 2, "val/empty": 0}, None),
    ],
)
def test_data_that_cannot_be_trained_on(make_folder: Callable[..., Path], counts: dict, message: str | None) -> None:
    root = make_folder(**counts)
    (root / "val" / "cat").mkdir(parents=True, exist_ok=True)
    if message is None:
        (root / "val" / "cat" / "broken.png").touch()
        message = "the val part holds no readable image"
    with pytest.raises(DataError, match=message) as error:
        open_data(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["no/such/place", "x" * 5000, "a\0b", "digit"])
def test_a_place_that_does_not_exist(spec: str) -> None:
    with pytest.raises(DataError, match=r"does not exist; give digits, an image folder, a CSV"):
        open_data(spec)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither a folder nor a .csv"):
        open_data(write_image(tmp_path / "a.png"))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no folder of images per class"):
        open_data(tmp_path)


def test_nothing_readable(make_folder: Callable[..., Path]) -> None:
    root = make_folder(cat=1, dog=1)
    for path in root.glob("*/*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 2 images of .* the first is cat/00.png: empty"):
        open_data(root)


def test_evaluation_on_the_validation_part_in_the_training_order(make_folder: Callable[..., Path]) -> None:
    root = make_folder(**{"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dog": 2})
    samples = open_evaluation(root, ["dog", "cow", "cat"])
    assert (samples.paths, samples.labels) == (["val/cat/00.png", "val/dog/00.png", "val/dog/01.png"], [2, 0, 0])
    assert samples.counts() == {"dog": 2, "cow": 0, "cat": 1}


def test_evaluation_on_all_of_a_folder_without_a_split(make_folder: Callable[..., Path]) -> None:
    assert len(open_evaluation(make_folder(cat=3), ["cat", "dog"])) == 3


def test_evaluation_on_a_label_never_trained(make_folder: Callable[..., Path]) -> None:
    with pytest.raises(
        DataError, match=r"label 'cow' was never seen in training .*rename it, remove its images, or train"
    ):
        open_evaluation(make_folder(cat=1, cow=1), ["cat", "dog"])
