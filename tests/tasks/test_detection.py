"""AP is that of COCO's own evaluator; what is right is counted as it counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ommatid.data.dense.masks import mask_boxes
from ommatid.tasks.detection import fitted, resized_masks, scaled_truth
from ommatid.tasks.detection_metrics import AveragePrecision
from ommatid.tasks.matching import right_ones

SIDE = 160


def things(generator: torch.Generator, count: int) -> dict[str, torch.Tensor]:
    corner = torch.rand(count, 2, generator=generator) * 100
    sides = 5 + torch.rand(count, 2, generator=generator) * 55
    boxes = torch.cat([corner, corner + sides], 1).round()
    return {"boxes": boxes, "labels": torch.randint(0, 3, (count,), generator=generator)}


def images(masks: bool) -> tuple[list[dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """What was found on six images, some of it right, and what is there, with crowds."""
    generator = torch.Generator().manual_seed(0)
    found, truth = [], []
    for _ in range(6):
        there, other = things(generator, 8), things(generator, 5)
        moved = there["boxes"] + torch.randn(8, 4, generator=generator) * 3
        boxes = torch.cat([moved, other["boxes"]]).round().clamp(0, SIDE)
        scores = torch.rand(13, generator=generator)
        order = scores.argsort(descending=True)
        answers = {"boxes": boxes, "scores": scores, "labels": torch.cat([there["labels"], other["labels"]])}
        crowd = torch.rand(8, generator=generator) < 0.2
        truth.append(there | {"crowd": crowd, "area": (there["boxes"][:, 2:] - there["boxes"][:, :2]).prod(1)})
        found.append({name: value[order] for name, value in answers.items()})
        if masks:
            for part in (found[-1], truth[-1]):
                part["masks"] = torch.stack([rectangle(box) for box in part["boxes"]])
    return found, truth


def rectangle(box: torch.Tensor) -> torch.Tensor:
    left, top, right, bottom = box.int().tolist()
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("of", ["boxes", "masks"])
def test_ap_is_that_of_pycocotools(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    found, truth = images(of == "masks")
    metric = AveragePrecision(of)  # type: ignore[arg-type]
    metric.update(found[:2], truth[:2])
    metric.update(found[2:], truth[2:])
    ours = metric.compute()
    expected = by_pycocotools(found, truth, of)
    for name, value in zip(("ap", "ap50", "ap75"), expected, strict=True):
        assert ours[name].item() == pytest.approx(value, abs=1e-6)
    assert 0.05 < expected[0] < expected[1] < 0.95


def by_pycocotools(found: list[Any], truth: list[Any], of: str) -> list[float]:
    import numpy as np
    from pycocotools import mask as masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def shape(image: Any, number: int) -> dict[str, Any]:
        left, top, right, bottom = image["boxes"][number].tolist()
        told: dict[str, Any] = {"bbox": [left, top, right - left, bottom - top]}
        if of == "masks":
            told["segmentation"] = masks.encode(np.asfortranarray(image["masks"][number].numpy().astype(np.uint8)))
        return told

    annotations = [
        {"id": 100 * index + number + 1, "image_id": index, "category_id": int(label), "iscrowd": int(crowd)}
        | {"area": float(image["area"][number])}
        | shape(image, number)
        for index, image in enumerate(truth)
        for number, (label, crowd) in enumerate(zip(image["labels"], image["crowd"], strict=True))
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index, "height": SIDE, "width": SIDE} for index in range(len(truth))],
        "annotations": annotations,
        "categories": [{"id": label} for label in range(3)],
    }
    coco.createIndex()
    answers = [
        {"image_id": index, "category_id": int(label), "score": float(score)} | shape(image, number)
        for index, image in enumerate(found)
        for number, (label, score) in enumerate(zip(image["labels"], image["scores"], strict=True))
    ]
    evaluation = COCOeval(coco, coco.loadRes(answers), "bbox" if of == "boxes" else "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:3].tolist()


def test_details_name_what_is_not_there() -> None:
    metric = AveragePrecision()
    box = torch.tensor([[10.0, 10, 40, 40]])
    there = {"boxes": box, "labels": torch.tensor([1]), "crowd": torch.tensor([False]), "area": torch.tensor([900.0])}
    metric.update([{"boxes": box, "scores": torch.tensor([0.9]), "labels": torch.tensor([1])}], [there])
    details = metric.details()
    assert details["ap"] == pytest.approx(1)
    assert details["classes"] == {1: pytest.approx(1)}
    assert details["ap_large"] is None


def test_the_surest_is_right_and_crowds_do_not_count() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [80, 80, 90, 90]])
    found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7, 0.6]), "labels": torch.tensor([0, 0, 0, 1])}
    truth = {
        "boxes": torch.tensor([[0.0, 0, 10, 10], [40, 40, 70, 70], [80, 80, 90, 90]]),
        "labels": torch.tensor([0, 0, 0]),
        "crowd": torch.tensor([False, True, False]),
    }
    right, counts = right_ones(found, truth)
    assert right.tolist() == [True, False, False, False]
    assert counts.tolist() == [True, True, False, True]


def test_truth_follows_an_image_that_was_made_to_fit() -> None:
    smaller, factor = fitted(torch.zeros(1, 3, 100, 200), (30, 60))
    assert smaller.shape[-2:] == (30, 60)
    masks = torch.zeros(1, 100, 200, dtype=torch.bool)
    masks[0, 20:60, 40:120] = True
    scaled = scaled_truth({"boxes": mask_boxes(masks), "masks": masks}, factor, smaller.shape[-2:])
    torch.testing.assert_close(scaled["boxes"], torch.tensor([[12.0, 6, 36, 18]]))
    torch.testing.assert_close(mask_boxes(scaled["masks"]), scaled["boxes"])
    assert resized_masks(masks[:0], smaller.shape[-2:]).shape == (0, 30, 60)
