import math

import numpy as np
import pytest
from PIL import Image

from ommatid.report.pictures import confusion_png, curves_png, labelled_png

from .examples import HOSTILE, MODELS, evaluate_result, make_run


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_curves_are_drawn(tmp_path):
    curve = make_run(*MODELS[0])["curve"]
    curves_png(curve, tmp_path / "curves.png")
    curves_png(curve[:6], tmp_path / "half.png")
    drawn = pixels(tmp_path / "curves.png")
    assert drawn.shape == (480, 1200, 3)
    assert (drawn != pixels(tmp_path / "half.png")).any()
    blue = (drawn[..., 2] - drawn[..., 0]) > 100
    assert blue.sum() > 1000


@pytest.mark.parametrize("rows", [[], [{"epoch": 0}], [{"epoch": 0, "train_loss": math.nan, "val_accuracy": None}]])
def test_curves_stand_with_little_to_show(tmp_path, rows):
    curves_png(rows, tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").shape == (480, 1200, 3)


def test_confusion_is_dark_where_the_images_are(tmp_path):
    confusion_png([[9, 0], [0, 9]], ["a", "b"], tmp_path / "right.png")
    confusion_png([[0, 9], [9, 0]], ["a", "b"], tmp_path / "wrong.png")
    right, wrong = (pixels(tmp_path / name).sum(axis=2) for name in ("right.png", "wrong.png"))
    height, width = right.shape
    quarter = (slice(int(0.15 * height), int(0.3 * height)), slice(int(0.3 * width), int(0.4 * width)))
    assert right[quarter].mean() < wrong[quarter].mean() - 200


@pytest.mark.parametrize("size", [2, 20, 100, 200])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_confusion_of_many_classes_and_hostile_names(tmp_path, size):
    classes = [HOSTILE, *evaluate_result(size)["classes"][1:]]
    confusion_png(evaluate_result(size)["confusion"], classes, tmp_path / "confusion.png")
    assert max(pixels(tmp_path / "confusion.png").shape) < 3000


def test_confusion_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected 3 rows"):
        confusion_png([[1]], ["a", "b", "c"], tmp_path / "confusion.png")


@pytest.mark.parametrize("size", [(32, 32), (640, 427), (20, 300)])
def test_labels_are_written_below_the_image(tmp_path, size):
    image = Image.new("RGB", size, "red")
    labelled_png(image, ["tabby cat 93.1 %", "a name " * 20, HOSTILE, ""], tmp_path / "labelled.png")
    drawn = pixels(tmp_path / "labelled.png")
    red = (drawn == [255, 0, 0]).all(axis=2)
    rows = np.flatnonzero(red.any(axis=1))
    assert rows[0] == 0
    assert red.sum() == len(rows) * red[0].sum() >= size[0] * size[1]
    below = drawn[rows[-1] + 1 :]
    assert (below < 60).all(axis=2).sum() > 100
    assert (below[:, [0, -1]] == 255).all()


def test_the_given_image_is_left_alone(tmp_path):
    image = Image.new("L", (300, 300), 7)
    labelled_png(image, ["line"], tmp_path / "labelled.png")
    assert image.size == (300, 300)
    assert image.mode == "L"


def test_any_file_name_takes_a_png(tmp_path):
    curves_png([], tmp_path / "curves.draft")
    confusion_png([[1]], ["a"], tmp_path / "confusion.draft")
    labelled_png(Image.new("RGB", (9, 9)), [], tmp_path / "labelled.draft")
    assert all(pixels(path).size for path in tmp_path.iterdir())
