"""Segments of every form, and what is wrong with them: named, left out and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ommatid.data import DataError
from ommatid.data.dense import SceneAugmentation, open_scene_evaluation, open_scenes, scene_transform
from ommatid.data.dense.segments import colours_of_ids, read_ids

WIDTH, HEIGHT = 24, 16
CATEGORIES = [
    {"id": 3, "name": "dog", "isthing": 1},
    {"id": 7, "name": "sky", "isthing": 0},
    {"id": 9, "name": "grass", "isthing": 0},
]
CLASSES = ("dog", "sky", "grass")
SKY, DOG, OTHER = 70_000, 300, 5
"""Ids, of which two are more than one byte."""

Content = dict[str, Any]


def ids() -> np.ndarray:
    """Sky above two dogs, and a row of pixels without a segment."""
    told = np.full((HEIGHT, WIDTH), SKY)
    told[8:, :10], told[8:, 10:], told[15] = DOG, OTHER, 0
    return told


def write_ids(path: Path, told: np.ndarray) -> None:
    Image.fromarray(colours_of_ids(told)).save(path)


def panoptic(root: Path, split: str = "train", count: int = 2) -> Content:
    """As COCO lays its files out."""
    (root / f"{split}2017").mkdir(parents=True)
    pngs = root / "annotations" / f"panoptic_{split}2017"
    pngs.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{split}2017" / f"{number}.jpg")
        write_ids(pngs / f"{number}.png", ids())
        images.append({"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
        told = [(SKY, 7, 0), (DOG, 3, 0), (OTHER, 3, 1)]
        segments = [{"id": id, "category_id": category, "iscrowd": crowd} for id, category, crowd in told]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def written(root: Path, content: Content, split: str = "train") -> Path:
    path = root / "annotations" / f"panoptic_{split}2017.json"
    path.write_text(json.dumps(content))
    return path


def test_segments_of_a_folder_in_coco_form(tmp_path: Path) -> None:
    for split in ("train", "val"):
        written(tmp_path, panoptic(tmp_path, split), split)
    data = open_scenes(tmp_path, "segments")
    assert (data.classes, data.stuff, len(data.train), len(data.val)) == (CLASSES, ("sky", "grass"), 2, 2)
    truth = data.train[0][1]
    expected = np.select([ids() == SKY, ids() == DOG, ids() == OTHER], [1, 2, 3])
    assert torch.equal(truth["segments"].as_subclass(Tensor).long(), torch.from_numpy(expected))
    assert truth["labels"].tolist() == [1, 0, 0]
    assert truth["crowd"].tolist() == [False, False, True]
    assert not data.skipped


def test_segments_are_read_again_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, panoptic(tmp_path))
    inside = open_scene_evaluation(path, "segments", CLASSES)
    monkeypatch.setattr("ommatid.data.read.MEMORY_BYTES", 0)
    outside = open_scene_evaluation(path, "segments", CLASSES)
    assert inside.in_memory
    assert not outside.in_memory
    assert torch.equal(inside[1][1]["segments"], outside[1][1]["segments"])


def change(**values: Any) -> Callable[[Content, Path], None]:
    """Of the last segment of the first picture."""
    return lambda content, pngs: content["annotations"][0]["segments_info"][-1].update(values)


def another_size(content: Content, pngs: Path) -> None:
    write_ids(pngs / "0.png", ids()[:, 1:])


def grey(content: Content, pngs: Path) -> None:
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(pngs / "0.png")


def stray(content: Content, pngs: Path) -> None:
    told = ids()
    told[0, :4], told[1, 0] = 11, 12
    write_ids(pngs / "0.png", told)


def nothing(content: Content, pngs: Path) -> None:
    write_ids(pngs / "0.png", np.zeros((HEIGHT, WIDTH), int))


def damaged(content: Content, pngs: Path) -> None:
    (pngs / "0.png").write_bytes((pngs / "0.png").read_bytes()[:60])


def undescribed(content: Content, pngs: Path) -> None:
    del content["annotations"][0]


def twice(content: Content, pngs: Path) -> None:
    content["annotations"].append(content["annotations"][0])


def unlisted(content: Content, pngs: Path) -> None:
    content["annotations"].append({"image_id": 99, "file_name": "9.png", "segments_info": []})


def without_segments(content: Content, pngs: Path) -> None:
    content["annotations"].append({"image_id": 0, "file_name": "0.png"})


def otherwise_sized(content: Content, pngs: Path) -> None:
    content["images"][0]["width"] = 99


@pytest.mark.parametrize(
    ("spoil", "name", "reason", "left"),
    [
        (change(id=6), "0.jpg, segment 6", "no pixel in its file of segments", 2),
        (change(category_id=4), "0.jpg, segment 5", "category 4 is not listed", 2),
        (change(id="x"), "0.jpg, segment number 3", "its id is 'x', not 1 to 16777215", 2),
        (change(id=DOG), "0.jpg, segment 300", "listed twice", 2),
        (another_size, "0.jpg", "its file of segments has 23 x 16 pixels, the picture 24 x 16", 1),
        (lambda content, pngs: (pngs / "0.png").unlink(), "0.jpg", "no such file", 1),
        (grey, "0.jpg", "its file of segments has L pixels; allowed: RGB", 1),
        (damaged, "0.jpg", "truncated or damaged", 1),
        (nothing, "0.jpg", "no pixel of its file of segments is of a segment that is listed", 1),
        (stray, "0.jpg, segment 11", "not among those listed, as are 1 more; 5 pixels are left out", 2),
        (undescribed, "0.jpg", "no annotation says its segments", 1),
        (twice, "panoptic_train2017.json, annotation 2", "a second one for its image", 2),
        (unlisted, "panoptic_train2017.json, annotation 2", "its image_id is that of no listed image", 2),
        (without_segments, "panoptic_train2017.json, annotation 2", "no list of segments_info", 2),
        (otherwise_sized, "0.jpg", "annotated as 99 x 16 pixels, the picture has 24 x 16", 1),
    ],
)
def test_what_is_bad_is_named_and_left_out(
    spoil: Callable[[Content, Path], None], name: str, reason: str, left: int, tmp_path: Path
) -> None:
    content = panoptic(tmp_path)
    spoil(content, tmp_path / "annotations" / "panoptic_train2017")
    samples = open_scene_evaluation(written(tmp_path, content), "segments", CLASSES)
    assert len(samples) == left
    told = [skip for skip in samples.skipped if skip.path == name]
    assert [reason in skip.reason for skip in told] == [True], samples.skipped
    for index in range(left):
        truth = samples[index][1]
        assert truth["segments"].max() <= len(truth["labels"])


def test_pixels_of_an_unknown_category_are_not_judged(tmp_path: Path) -> None:
    content = panoptic(tmp_path)
    change(category_id=4)(content, tmp_path)
    truth = open_scene_evaluation(written(tmp_path, content), "segments", CLASSES)[0][1]
    assert truth["crowd"].tolist() == [False, False, True]
    assert len(open_scene_evaluation(written(tmp_path, content), "segments", CLASSES).skipped) == 1


def test_classes_are_found_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, panoptic(tmp_path))
    samples = open_scene_evaluation(path, "segments", ("grass", "cat", "dog", "sky"))
    assert samples[0][1]["labels"].tolist() == [3, 2, 2]
    with pytest.raises(DataError, match="the class 'grass' was never seen in training"):
        open_scene_evaluation(path, "segments", ("dog", "sky"))


@pytest.mark.parametrize("wanted", ["boxes", "masks", "outlines"])
def test_the_right_task_is_named(wanted: Any, tmp_path: Path) -> None:
    path = written(tmp_path, panoptic(tmp_path))
    for place in (path, tmp_path):
        with pytest.raises(DataError, match="describes segments of pictures: train it with the task panoptic"):
            open_scenes(place, wanted)


def test_things_alone_stand_before_a_background() -> None:
    segments, outlines = (open_scenes("scenes", wanted).val[3][1] for wanted in ("segments", "outlines"))  # type: ignore[arg-type]
    count = len(outlines["labels"])
    assert torch.equal(segments["labels"], torch.cat([outlines["labels"] + 1, torch.tensor([0])]))
    numbers = segments["segments"].as_subclass(Tensor)
    for place, mask in enumerate(outlines["masks"].as_subclass(Tensor).bool(), start=1):
        assert torch.equal(numbers == place, mask)
    assert (numbers > 0).all()
    assert (numbers == count + 1).any()


def test_segments_move_with_their_image() -> None:
    data = open_scenes("scenes", "segments")
    transform = scene_transform(SceneAugmentation(zoom=(0.5, 0.5), flip=1, colour=0), (96, 128))
    image, truth = transform(*data.val[0])
    numbers = truth["segments"]
    outside = numbers == 0
    assert outside.float().mean() == pytest.approx(0.75, abs=0.02)
    assert not image[:, outside].any()
    whole = data.val[0][1]["segments"].as_subclass(Tensor)
    shares = [torch.bincount(part[part > 0].flatten()) / (part > 0).sum() for part in (numbers, whole)]
    torch.testing.assert_close(shares[0], shares[1], atol=0.02, rtol=0)


def test_more_segments_than_a_byte_can_count(tmp_path: Path) -> None:
    told = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) + 1
    write_ids(tmp_path / "ids.png", told * 43_000)
    assert np.array_equal(read_ids(tmp_path / "ids.png"), told * 43_000 % (1 << 24))
    content = panoptic(tmp_path / "data")
    write_ids(tmp_path / "data/annotations/panoptic_train2017/0.png", told)
    segments = [{"id": id, "category_id": 3} for id in range(1, told.size + 1)]
    content["annotations"][0]["segments_info"] = segments
    samples = open_scene_evaluation(written(tmp_path / "data", content), "segments", CLASSES)
    transform = scene_transform(SceneAugmentation(zoom=(1, 1), flip=0, colour=0), (HEIGHT, WIDTH))
    assert torch.equal(transform(*samples[0])[1]["segments"].long(), torch.from_numpy(told))
