"""How well a segmentation network tells pixels apart, and on which pictures it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ommatid.data.dense import SceneSamples
from ommatid.measuring.machine import describe_machine
from ommatid.report.before_after import jpeg_uri
from ommatid.report.drawing import enlarged, masked_picture
from ommatid.report.evaluate_segmentation import evaluate_segmentation_page
from ommatid.report.formats import percent
from ommatid.runs.evaluation import both_ends, evaluation_folder, saved_evaluation
from ommatid.runs.scenes import classes_of, open_samples, resized
from ommatid.runs.trained import TrainedScenes
from ommatid.tasks.segmentation_metrics import PixelConfusion, iou_by_class
from ommatid.tasks.whole_or_window import Segmentation
from ommatid.training.tasks.dense import told
from ommatid.workflows.opening import open_scene_network


def evaluate_segmenter(
    run_or_weights: str | Path,
    data: str | Path | None,
    *,
    batch: int,
    size: int | None,
    device: torch.device,
    out: str | Path | None,
) -> dict[str, Any]:
    """As `evaluate`, for a segmentation network; `size` is the longer side of what it sees at once.

    Returns:
        `miou`, `pixel_accuracy` and `mean_accuracy` over all pixels, `per_class`, and `pictures`, a row for each.
    """
    trained = open_scene_network(run_or_weights)
    samples, source = open_samples(trained, data, "masks")
    through = Segmentation(trained.facts.view, resized(trained.facts.sides, size))
    trained.model.to(device)
    total, rows = judged(trained, through, samples, device)
    order = sorted(range(len(rows)), key=lambda index: rows[index]["miou"])

    def shown(index: int) -> dict[str, Any]:
        return _shown(trained, through, samples, index, rows[index], device)

    result = {
        "model": told(trained.model.config),
        "data": source,
        "samples": len(samples),
        **{name: value.item() for name, value in total.compute().items()},
        "per_class": _per_class(total.counts, samples.classes),
        "confusion": total.counts.tolist(),
        "classes": list(samples.classes),
        "pictures": rows,
        "machine": describe_machine(),
        "settings": {
            "weights": str(trained.path),
            "view": through.view,
            "sides": list(through.sides),
            "device": str(device),
        },
        **both_ends(order, shown),
    }
    summary = (
        f"mIoU {result['miou']:.2%}, pixel accuracy {result['pixel_accuracy']:.2%} on {result['samples']} pictures"
    )
    folder = evaluation_folder(trained.path, source, out)
    return saved_evaluation(folder, result, evaluate_segmentation_page(result), summary)


def judged(
    trained: TrainedScenes, through: Segmentation, samples: SceneSamples, device: torch.device
) -> tuple[PixelConfusion, list[dict[str, Any]]]:
    """The counts over all pictures, and a row for each: its path and its numbers. The model is on `device` already."""
    total, rows = PixelConfusion(len(samples.classes)), []
    for index in range(len(samples)):
        image, truth = samples[index]
        answer, one = classes_of(trained, through, image, device), PixelConfusion(len(samples.classes))
        for metric in (total, one):
            metric.update(answer, truth["mask"].as_subclass(Tensor))
        numbers = {name: value.item() for name, value in one.compute().items()}
        rows.append({"path": samples.paths[index], **numbers})
    return total, rows


def _per_class(counts: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    columns = (iou_by_class(counts), counts.diag() / counts.sum(1), counts.sum(1) / counts.sum())
    numbers = zip(*(column.tolist() for column in columns), strict=True)
    rows = (dict(zip(("iou", "accuracy", "share"), map(_known, row), strict=True)) for row in numbers)
    return [{"name": name} | row for name, row in zip(classes, rows, strict=True)]


def _known(value: float) -> float | None:
    return value if value == value else None


def _shown(
    trained: TrainedScenes,
    through: Segmentation,
    samples: SceneSamples,
    index: int,
    row: dict[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """The row of a picture, with the picture, what was made of it, and what it should be."""
    image, truth = samples[index]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    count = len(samples.classes)

    def drawn(mask: Tensor) -> str:
        return jpeg_uri(masked_picture(picture, np.asarray(mask), count))

    answer = classes_of(trained, through, image, device)
    views = {"picture": jpeg_uri(enlarged(picture)), "prediction": drawn(answer), "truth": drawn(truth["mask"])}
    return row | views | {"told": f"mIoU {percent(row['miou'])}"}
