"""What a detector finds, and on which pictures it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ommatid.data.dense import SceneSamples
from ommatid.measuring.machine import describe_machine
from ommatid.models.dense import MaskTransformer
from ommatid.report.before_after import jpeg_uri
from ommatid.report.drawing import Seen, enlarged, marked_picture
from ommatid.report.evaluate_detection import evaluate_detection_page
from ommatid.runs.evaluation import both_ends, evaluation_folder, saved_evaluation
from ommatid.runs.scenes import open_samples, resized, things_of
from ommatid.tasks.detection import LEAST_SCORE
from ommatid.tasks.detection_metrics import AveragePrecision
from ommatid.tasks.matching import right_ones
from ommatid.training.tasks.dense import told
from ommatid.workflows.opening import open_scene_network

SCORE = 0.4
"""From which on things are drawn and counted."""

POINTS = 101
"""Of a curve of precision against recall."""


def evaluate_detector(
    run_or_weights: str | Path,
    data: str | Path | None,
    *,
    batch: int,
    size: int | None,
    device: torch.device,
    out: str | Path | None,
) -> dict[str, Any]:
    """As `evaluate`, for a detector; `size` is the longer side of what it sees.

    Returns:
        `ap`, `ap50` and `ap75` over all pictures, `per_class`, and `pictures`, a row for each with what was right,
        missed and wrong among what has a score of `settings.score`.
    """
    trained = open_scene_network(run_or_weights)
    masks = isinstance(trained.model, MaskTransformer)
    samples, source = open_samples(trained, data, "outlines" if masks else "boxes")
    sides = resized(trained.facts.sides, size)
    trained.model.to(device)
    metric = AveragePrecision("masks" if masks else "boxes")
    answers = []
    for index in range(len(samples)):
        image, truth = samples[index]
        found = things_of(trained, sides, image, device, score=LEAST_SCORE)
        metric.update([found], [truth])
        answers.append(found)
    judged = [_judged(samples, index, found) for index, found in enumerate(answers)]
    rows = [row for row, _ in judged]
    order = sorted(range(len(rows)), key=lambda index: -(rows[index]["missed"] + rows[index]["wrong"]))

    def shown(index: int) -> dict[str, Any]:
        return _shown(samples, index, answers[index], rows[index])

    details = metric.details()
    result = {
        "model": told(trained.model.config),
        "data": source,
        "samples": len(samples),
        "things": sum(row["things"] for row in rows),
        "of": metric.of,
        **{name: value for name, value in details.items() if name != "classes"},
        "per_class": _per_class(samples.classes, [counted for _, counted in judged], details["classes"], samples),
        "classes": list(samples.classes),
        "pictures": rows,
        "machine": describe_machine(),
        "settings": {"weights": str(trained.path), "sides": list(sides), "score": SCORE, "device": str(device)},
        **both_ends(order, shown),
    }
    summary = f"AP {_percent(result['ap'])}, AP50 {_percent(result['ap50'])} on {len(samples)} pictures"
    folder = evaluation_folder(trained.path, source, out)
    return saved_evaluation(folder, result, evaluate_detection_page(result), summary)


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2%}"


def _judged(samples: SceneSamples, index: int, found: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A row of counts at the score of the pictures; and scores, labels and rightness of all that counts."""
    truth = samples[index][1]
    right, counts = right_ones(found, truth)
    sure = counts & (found["scores"] >= SCORE)
    things = int((~truth["crowd"]).sum())
    hits = int(right[sure].sum())
    row = {
        "path": samples.paths[index],
        "things": things,
        "found": int(sure.sum()),
        "right": hits,
        "missed": things - hits,
        "wrong": int(sure.sum()) - hits,
    }
    return row, {"scores": found["scores"][counts], "labels": found["labels"][counts], "right": right[counts]}


def _per_class(
    classes: Sequence[str], counted: list[dict[str, Tensor]], precision: dict[int, float | None], samples: SceneSamples
) -> list[dict[str, Any]]:
    scores, labels, right = (torch.cat([image[name] for image in counted]) for name in ("scores", "labels", "right"))
    truths = [samples[index][1] for index in range(len(samples))]
    things = torch.cat([truth["labels"][~truth["crowd"]] for truth in truths]).bincount(minlength=len(classes))
    rows = []
    for label, name in enumerate(classes):
        mine = labels == label
        curve = _curve(scores[mine], right[mine], int(things[label]))
        sure = mine & (scores >= SCORE)
        numbers = {"things": int(things[label]), "found": int(sure.sum()), "right": int(right[sure].sum())}
        rows.append({"name": name, "ap": precision.get(label), **curve, **numbers})
    return rows


def _curve(scores: Tensor, right: Tensor, things: int) -> dict[str, Any]:
    """Precision at each recall, made to fall, and its mean over 101 recalls: AP50 as COCO has it."""
    order = scores.argsort(descending=True, stable=True)
    hits = right[order].cumsum(0).double()
    recall = hits / max(things, 1)
    falling = (hits / torch.arange(1, len(hits) + 1)).flip(0).cummax(0).values.flip(0) if len(hits) else hits
    wanted = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    places = torch.searchsorted(recall, wanted)
    precision = torch.cat([falling, falling.new_zeros(1)])[places]
    ap50 = precision.mean().item() if things else None
    return {"recall": wanted.tolist(), "precision": precision.tolist(), "ap50": ap50}


def _shown(samples: SceneSamples, index: int, found: dict[str, Tensor], row: dict[str, Any]) -> dict[str, Any]:
    """The row of a picture, with the picture, what was found on it, and what is there."""
    image, truth = samples[index]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    views = {
        "picture": jpeg_uri(enlarged(picture)),
        "prediction": jpeg_uri(marked_picture(picture, seen(found, samples.classes, SCORE), len(samples.classes))),
        "truth": jpeg_uri(marked_picture(picture, seen(truth, samples.classes, 0.0), len(samples.classes))),
    }
    return row | views | {"told": f"{row['right']} right, {row['missed']} missed, {row['wrong']} wrong"}


def seen(things: dict[str, Any], classes: Sequence[str], score: float) -> list[Seen]:
    """Things as they are drawn, those from `score` on; what is true has none and is written by its name alone."""
    scores = things["scores"].tolist() if "scores" in things else [None] * len(things["boxes"])
    masks = things["masks"].bool().numpy() if "masks" in things else [None] * len(scores)
    rows = zip(things["boxes"].tolist(), things["labels"].tolist(), scores, masks, strict=True)
    return [
        Seen(box, classes[label] if sure is None else f"{classes[label]} {sure:.2f}", label, mask)
        for box, label, sure, mask in rows
        if sure is None or sure >= score
    ]
