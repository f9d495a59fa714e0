"""Annotated pictures of every form, and what is wrong with them: named, left out and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ommatid.data import DataError
from ommatid.data.dense import IGNORED, open_scene_evaluation, open_scenes
from ommatid.data.dense.masks import run_lengths

WIDTH, HEIGHT = 24, 16


def picture(path: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(path)


def masks(root: Path, count: int = 4, classes: str | None = "sky\nroad\n") -> Path:
    for number in range(count):
        picture(root / "images" / f"{number}.png")
        (root / "masks").mkdir(exist_ok=True)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[number:] = 1
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def grey(value: int, width: int = WIDTH) -> Image.Image:
    return Image.fromarray(np.full((HEIGHT, width), value, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda root: grey(1, WIDTH + 1).save(root / "masks" / "0.png"),
            "its mask has 25 x 16 pixels, the picture 24 x",
        ),
        (
            lambda root: grey(7).save(root / "masks" / "0.png"),
            "class 7 in 384 pixels of its mask; allowed: 0 to 1, and 2",
        ),
        (lambda root: grey(255).save(root / "masks" / "0.png"), "no pixel of its mask has a class"),
        (lambda root: (root / "masks" / "0.png").unlink(), "no mask of its name in masks/"),
        (lambda root: (root / "images" / "0.png").unlink(), "no picture of its name in images/"),
        (lambda root: (root / "masks" / "0.png").write_bytes(b"GIF89a"), "not an image"),
        (lambda root: (root / "images" / "0.png").write_bytes(b""), "empty: 0 bytes"),
        (
            lambda root: Image.new("RGB", (WIDTH, HEIGHT), "red").save(root / "masks" / "0.png"),
            "its mask is in colours",
        ),
    ],
)
def test_a_bad_mask_is_named_and_left_out(spoil: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    root = masks(tmp_path)
    spoil(root)
    data = open_scenes(root, "masks")
    assert len(data.train) + len(data.val) == 3
    (skipped,) = data.skipped
    assert "0.png" in skipped.path
    assert reason in skipped.reason


def test_what_is_no_class_is_ignored(tmp_path: Path) -> None:
    root = masks(tmp_path)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[0, :3] = 1, 2, 255
    Image.fromarray(mask).save(root / "masks" / "0.png")
    samples = open_scene_evaluation(root, "masks", ("sky", "road"))
    assert samples[0][1]["mask"][0, :4].tolist() == [1, IGNORED, IGNORED, 0]


def test_colours_and_palettes(tmp_path: Path) -> None:
    root = masks(tmp_path, classes="sky 0 0 255\nmy road 128 64 128\n")
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[0], pixels[1] = (128, 64, 128), (0, 0, 255)
    Image.fromarray(pixels).save(root / "masks" / "0.png")
    indexed = Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8), "P")
    indexed.putpalette([9, 9, 9, 200, 0, 0])
    indexed.save(root / "masks" / "1.png")
    samples = open_scene_evaluation(root, "masks", ("sky", "my road"))
    assert samples[0][1]["mask"][:3, 0].tolist() == [1, 0, IGNORED]
    assert samples[1][1]["mask"].unique().tolist() == [1]


def test_classes_without_names_are_counted(tmp_path: Path) -> None:
    assert open_scenes(masks(tmp_path, classes=None), "masks").classes == ("class 0", "class 1")


def annotation(number: int, **values: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 4, "bbox": [2, 3, 6, 5], "iscrowd": 0} | values


def coco(root: Path, annotations: list[Any], images: int = 3) -> Path:
    for number in range(1, images + 1):
        picture(root / "images" / f"{number}.png")
    listed = [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in range(1, images + 1)]
    good = [annotation(100 + n, image_id=n) for n in range(2, images + 1)]
    content = {"images": listed, "annotations": annotations + good, "categories": [{"id": 4, "name": "cell"}]}
    (root / "all.json").write_text(json.dumps(content))
    return root / "all.json"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 9}, "category 9 is not listed"),
        ({"image_id": 77}, "its image_id is that of no listed image"),
        ({"bbox": [2, 3, 0, 5]}, "an empty box, 0 x 5 pixels"),
        ({"bbox": [30, 3, 5, 5]}, "a box outside of the picture, from (30, 3) to (35, 8)"),
        ({"bbox": [1, 2, 3]}, "its bbox is [1, 2, 3], not left, top, width and height"),
        ({"bbox": ["a", 2, 3, 4]}, "not left, top, width and height"),
        ({"segmentation": [[1, 2, 3]]}, "its segmentation is neither polygons"),
        ({"segmentation": {"size": [3, 3], "counts": [9]}}, "a bad outline"),
    ],
)
def test_a_bad_annotation_is_named_and_left_out(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = coco(tmp_path, [annotation(1, **change), annotation(2)])
    samples = open_scene_evaluation(path, "outlines", ("cell",))
    assert len(samples) == 3
    assert samples[0][1]["boxes"].tolist() == [[2, 3, 8, 8]]
    (skipped,) = samples.skipped
    assert reason in skipped.reason


def test_boxes_are_cut_off_and_crowds_are_kept(tmp_path: Path) -> None:
    path = coco(tmp_path, [annotation(1, bbox=[-4, 10, 10, 99]), annotation(2, iscrowd=1)])
    truth = open_scene_evaluation(path, "boxes", ("cell",))[0][1]
    assert truth["boxes"].tolist() == [[0, 10, 6, 16], [2, 3, 8, 8]]
    assert truth["crowd"].tolist() == [False, True]


def test_pictures_that_are_missing_or_of_another_size(tmp_path: Path) -> None:
    path = coco(tmp_path, [], images=4)
    (tmp_path / "images" / "2.png").unlink()
    picture(tmp_path / "images" / "3.png", width=30)
    samples = open_scene_evaluation(path, "boxes", ("cell",))
    assert [Path(name).name for name in samples.paths] == ["1.png", "4.png"]
    assert {skip.path: skip.reason for skip in samples.skipped} == {
        "2.png": "no such file",
        "3.png": "annotated as 24 x 16 pixels, the picture has 30 x 16",
    }


def test_outlines_by_polygon_and_run_lengths(tmp_path: Path) -> None:
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[3:8, 2:8] = True
    packed = run_lengths(square, HEIGHT, WIDTH)
    packed["counts"] = packed["counts"].decode() if isinstance(packed["counts"], bytes) else packed["counts"]
    plain = {"size": [HEIGHT, WIDTH], "counts": _counts(square)}
    polygon = [[2, 3, 8, 3, 8, 8, 2, 8]]
    path = coco(tmp_path, [annotation(n, segmentation=s) for n, s in enumerate((packed, plain, polygon))])
    found = open_scene_evaluation(path, "outlines", ("cell",))[0][1]["masks"]
    for mask in found:
        assert torch.equal(mask.bool(), torch.from_numpy(square))
    painted = open_scene_evaluation(path, "masks", ("background", "cell"))[0][1]["mask"]
    assert torch.equal(painted.bool(), torch.from_numpy(square))


def _counts(mask: np.ndarray) -> list[int]:
    """Run lengths column by column, beginning with those that are off."""
    flat = mask.T.ravel().astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0, append=-1))
    return np.diff(edges, prepend=0).tolist()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "cannot be read as JSON"), ("[]", "is not a COCO file"), ('{"images": []}', "no list of annotations")],
)
def test_what_is_not_coco_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem):
        open_scenes(path, "boxes")


OBJECT = "<object><name>{name}</name><difficult>{hard}</difficult><bndbox>{box}</bndbox></object>"
BOX = "<xmin>3</xmin><ymin>4</ymin><xmax>8</xmax><ymax>8</ymax>"


def test_pascal_voc(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    for number in range(3):
        picture(tmp_path / "JPEGImages" / f"{number}.png")
        things = OBJECT.format(name="dog", hard=number, box=BOX)
        broken = OBJECT.format(name="cat", hard=0, box="<xmin>3</xmin>")
        text = f"<annotation><filename>{number}.png</filename>{things}{broken if number == 2 else ''}</annotation>"
        (tmp_path / "Annotations" / f"{number}.xml").write_text(text)
    (tmp_path / "Annotations" / "bad.xml").write_text("<annotation>")
    samples = open_scene_evaluation(tmp_path, "boxes", ("cat", "dog"))
    assert samples[0][1]["boxes"].tolist() == [[2, 3, 8, 8]]
    assert [bool(samples[n][1]["crowd"]) for n in range(2)] == [False, True]
    reasons = [skip.reason for skip in samples.skipped]
    assert len(reasons) == 2
    assert reasons[0].startswith("not XML")
    assert reasons[1] == "no bndbox of four numbers"


def test_embedded_scenes_are_the_same_every_time() -> None:
    one, other = (open_scenes("scenes", "outlines") for _ in range(2))
    assert one.fingerprint() == other.fingerprint()
    assert torch.equal(one.val[3][0], other.val[3][0])
    for index in range(len(one.val)):
        truth = one.val[index][1]
        assert len(truth["labels"]) >= 1
        assert (truth["masks"].sum(0) <= 1).all(), "what is hidden belongs to what hides it"
    painted = open_scenes("scenes", "masks")
    assert painted.classes == ("background", *one.classes)
    assert torch.equal(painted.val[0][1]["mask"] > 0, one.val[0][1]["masks"].any(0))


def test_real_data(shared_data: Path) -> None:
    camvid = open_scene_evaluation(shared_data / "camvid" / "test", "masks", _lines(shared_data / "camvid/classes.txt"))
    assert len(camvid) == 233
    assert not camvid.skipped
    cells = open_scenes(shared_data / "bccd", "boxes")
    assert (len(cells.train), len(cells.val), cells.classes) == (205, 87, ("RBC", "WBC", "Platelets"))


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text().split())


def test_masks_have_no_boxes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no things: train it with the task segmentation"):
        open_scenes(masks(tmp_path), "boxes")
    with pytest.raises(DataError, match="does not exist; give scenes, a folder with images/ and masks/"):
        open_scenes(tmp_path / "absent", "masks")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = coco(tmp_path, [])
    with pytest.raises(DataError, match="the class 'cell' was never seen in training"):
        open_scene_evaluation(path, "boxes", ("dog", "cat"))
    assert open_scene_evaluation(path, "boxes", ("dog", "cell"))[1][1]["labels"].tolist() == [1]
