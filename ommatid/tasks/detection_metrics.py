"""COCO's average precision of boxes or masks, by its well-kept evaluator."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from ommatid.data.dense.masks import run_lengths

STATISTICS = {"ap": 0, "ap50": 1, "ap75": 2, "ap_small": 3, "ap_medium": 4, "ap_large": 5, "ar": 8}
"""Where COCO's summary has them; `ar` is recall with at most 100 detections an image."""

Row = dict[str, Any]


class AveragePrecision(Metric):
    """AP, AP50 and AP75 over all images, from 0 to 1; 0 where no thing is there to find.

    of: what has to overlap, boxes or masks. Crowds are handled as COCO's tools do.
    """

    full_state_update = False

    def __init__(self, of: Literal["boxes", "masks"] = "boxes") -> None:
        super().__init__()
        self.of = of
        self.found: list[list[Row]] = []
        self.truth: list[list[Row]] = []

    def update(self, found: list[dict[str, Tensor]], truth: list[dict[str, Any]]) -> None:
        """One dictionary per image each: boxes (n, 4), scores, labels (and masks) found; boxes, labels, crowd, area."""
        for answer, there in zip(found, truth, strict=True):
            self.found.append(self._rows(answer, {"score": answer["scores"].tolist()}))
            area = there["area"] if "area" in there else (there["boxes"][:, 2:] - there["boxes"][:, :2]).prod(1)
            crowd = there["crowd"].long().tolist() if "crowd" in there else [0] * len(area)
            self.truth.append(self._rows(there, {"area": area.tolist(), "iscrowd": crowd}))

    def compute(self) -> dict[str, Tensor]:
        details = self.details()
        return {name: torch.tensor(details[name] or 0.0) for name in ("ap", "ap50", "ap75")}

    def details(self) -> dict[str, Any]:
        """What `compute` gives, also by size of the things, and AP of each class by its label; None where none is."""
        found, truth = _of_all_processes(self.found), _of_all_processes(self.truth)
        if not any(truth):
            return dict.fromkeys(STATISTICS) | {"classes": {}}
        evaluation = self._evaluated(found, truth)
        classes = evaluation.params.catIds
        # Overlaps, recalls, classes, sizes (the first: all), most detections (the last: 100).
        precision = evaluation.eval["precision"][:, :, :, 0, -1]
        by_class = {int(label): _known(precision[:, :, place].mean()) for place, label in enumerate(classes)}
        return {name: _known(evaluation.stats[place]) for name, place in STATISTICS.items()} | {"classes": by_class}

    def reset(self) -> None:
        super().reset()
        self.found, self.truth = [], []

    def _rows(self, image: dict[str, Tensor], more: dict[str, list[Any]]) -> list[Row]:
        boxes = image["boxes"].detach().float().cpu()
        shapes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
        rows = [
            {"category_id": label, "bbox": shape} | {name: values[place] for name, values in more.items()}
            for place, (label, shape) in enumerate(zip(image["labels"].tolist(), shapes, strict=True))
        ]
        if self.of == "masks":
            for row, mask in zip(rows, image["masks"].bool().cpu().numpy(), strict=True):
                row["segmentation"] = run_lengths(mask, *mask.shape)
        return rows

    def _evaluated(self, found: list[list[Row]], truth: list[list[Row]]) -> Any:
        from faster_coco_eval import COCO, COCOeval_faster

        labels = sorted({row["category_id"] for image in truth for row in image})
        dataset = {
            "images": [{"id": number} | _size(image) for number, image in enumerate(truth)],
            "annotations": _numbered(truth),
            "categories": [{"id": label, "name": str(label)} for label in labels],
        }
        coco = COCO(dataset)
        answers = [row for row in _numbered(found) if row["category_id"] in set(labels)]
        kind: Any = "bbox" if self.of == "boxes" else "segm"
        evaluation = COCOeval_faster(coco, coco.loadRes(answers), kind, print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation


def _numbered(images: list[list[Row]]) -> list[Row]:
    """All rows, counted from 1, with the number of their image."""
    rows = [row | {"image_id": number} for number, image in enumerate(images) for row in image]
    return [row | {"id": place} for place, row in enumerate(rows, start=1)]


def _size(image: list[Row]) -> Row:
    """Height and width, where masks say them."""
    height, width = next((row["segmentation"]["size"] for row in image if "segmentation" in row), (0, 0))
    return {"height": height, "width": width}


def _of_all_processes(rows: list[list[Row]]) -> list[list[Row]]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, rows)
    return [image for part in parts for image in part]


def _known(value: np.floating) -> float | None:
    """COCO says -1 where there is nothing to find."""
    return None if value < 0 else float(value)
