"""Boxes and masks follow the image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ommatid.data.dense import (
    IGNORED,
    SceneAugmentation,
    SceneData,
    canvas,
    make_detection_loader,
    make_segmentation_loader,
    open_scenes,
    scene_transform,
)
from ommatid.data.dense.masks import mask_boxes


@pytest.fixture(scope="module")
def scenes() -> SceneData:
    return open_scenes("scenes", "outlines")


@pytest.mark.parametrize("view", ["whole", "window"])
def test_boxes_masks_and_image_move_together(scenes: SceneData, view: str) -> None:
    augmentation = SceneAugmentation(view=view, zoom=(0.6, 1.6), flip=0.5, vertical_flip=0.5, colour=0)  # type: ignore[arg-type]
    transform, without_masks = scene_transform(augmentation, (72, 96)), open_scenes("scenes", "boxes").val
    near = []
    for index in range(12):
        torch.manual_seed(index)
        image, truth = transform(*scenes.val[index])
        torch.manual_seed(index)
        same, boxes = transform(*without_masks[index])
        assert torch.equal(image, same)
        assert image.shape == (3, 72, 96)
        assert truth["masks"].shape[1:] == (72, 96)
        torch.testing.assert_close(truth["boxes"], mask_boxes(truth["masks"]))
        whole = ((boxes["boxes"] > 0) & (boxes["boxes"] < torch.tensor([96, 72, 96, 72]))).all(1)
        for box in boxes["boxes"][whole]:
            near.append((truth["boxes"] - box).abs().amax(1).min() <= 1.5)
    assert len(near) > 5
    assert sum(near) >= 0.8 * len(near), "thin ends may be lost in smaller masks, nothing else"


def test_nothing_comes_from_outside_of_the_picture(scenes: SceneData) -> None:
    painted = open_scenes("scenes", "masks")
    transform = scene_transform(SceneAugmentation(zoom=(0.5, 0.5), flip=0, colour=0), (96, 128))
    torch.manual_seed(0)
    image, truth = transform(*painted.val[0])
    outside = truth["mask"].as_subclass(Tensor) == IGNORED
    assert outside.float().mean() == pytest.approx(0.75, abs=0.02)
    assert not image[:, outside].any()
    torch.manual_seed(0)
    assert not transform(*scenes.val[0])[1]["masks"][:, outside].any()


def test_loaders_give_what_models_take(scenes: SceneData) -> None:
    transform = scene_transform(SceneAugmentation(), canvas(scenes.train.sizes, 64))
    images, truths = next(iter(make_detection_loader(scenes.train, transform, batch=3, shuffle=True, seed=1)))
    assert images.shape == (3, 3, 48, 64)
    assert images.dtype == torch.float32
    assert all(type(truth["boxes"]) is Tensor for truth in truths)
    painted = open_scenes("scenes", "masks")
    loader = make_segmentation_loader(painted.train, transform, batch=3, shuffle=True, seed=1)
    images, classes = next(iter(loader))
    assert classes.shape == (3, 48, 64)
    assert classes.dtype == torch.int64
    again = next(iter(make_segmentation_loader(painted.train, transform, batch=3, shuffle=True, seed=1)))
    assert torch.equal(images, again[0])


def test_impossible_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scenes zoom = \(2, 1\) is not possible"):
        SceneAugmentation(zoom=(2, 1))
    with pytest.raises(ValueError, match=r"scenes flip = 2 is not possible"):
        SceneAugmentation(flip=2)


def test_the_canvas_has_the_pictures_shape() -> None:
    assert canvas([(640, 480), (640, 480), (10, 90)], 320) == (240, 320)
    assert canvas([(480, 640)], 320) == (320, 240)
