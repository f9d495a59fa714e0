"""Which segments a panoptic network finds, how well they fit, and on which pictures it fails."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ommatid.data.dense import SceneSamples
from ommatid.measuring.machine import describe_machine
from ommatid.report.before_after import jpeg_uri
from ommatid.report.drawing import enlarged, segmented_picture
from ommatid.report.evaluate_panoptic import evaluate_panoptic_page
from ommatid.report.formats import percent
from ommatid.runs.evaluation import both_ends, evaluation_folder, saved_evaluation
from ommatid.runs.scenes import open_samples, resized, segments_of
from ommatid.tasks.panoptic import SCORE
from ommatid.tasks.panoptic_metrics import SegmentQuality
from ommatid.training.tasks.dense import told
from ommatid.workflows.opening import open_scene_network


def evaluate_panoptic(
    run_or_weights: str | Path,
    data: str | Path | None,
    *,
    batch: int,
    size: int | None,
    device: torch.device,
    out: str | Path | None,
) -> dict[str, Any]:
    """As `evaluate`, for a panoptic network; `size` is the longer side of what it sees.

    Returns:
        `pq`, `sq`, `rq`, `pq_things` and `pq_stuff` over all pictures, `per_class`, and `pictures`, a row for each.
    """
    trained = open_scene_network(run_or_weights)
    samples, source = open_samples(trained, data, "segments")
    sides = resized(trained.facts.sides, size)
    trained.model.to(device)
    stuff = [trained.facts.classes.index(name) for name in trained.facts.stuff]
    total, answers, rows = SegmentQuality(len(samples.classes), stuff), [], []
    for index in range(len(samples)):
        image, truth = samples[index]
        answer, one = segments_of(trained, sides, image, device), SegmentQuality(len(samples.classes), stuff)
        for metric in (total, one):
            metric.update([answer], [truth])
        answers.append(answer)
        rows.append({"path": samples.paths[index], "pq": one.compute()["pq"].item(), **_counts(one)})
    order = sorted(range(len(rows)), key=lambda index: rows[index]["pq"])

    def shown(index: int) -> dict[str, Any]:
        return _shown(samples, index, answers[index], rows[index])

    result = {
        "model": told(trained.model.config),
        "data": source,
        "samples": len(samples),
        **{name: value.item() for name, value in total.compute().items()},
        "per_class": _per_class(total, samples.classes, stuff),
        "classes": list(samples.classes),
        "pictures": rows,
        "machine": describe_machine(),
        "settings": {"weights": str(trained.path), "sides": list(sides), "score": SCORE, "device": str(device)},
        **both_ends(order, shown),
    }
    summary = f"PQ {result['pq']:.2%}, SQ {result['sq']:.2%}, RQ {result['rq']:.2%} on {len(samples)} pictures"
    folder = evaluation_folder(trained.path, source, out)
    return saved_evaluation(folder, result, evaluate_panoptic_page(result), summary)


def _counts(metric: SegmentQuality) -> dict[str, int]:
    return {name: int(getattr(metric, name).sum()) for name in ("found", "missed", "wrong")}


def _per_class(total: SegmentQuality, classes: Sequence[str], stuff: Sequence[int]) -> list[dict[str, Any]]:
    qualities = [[None if value != value else value for value in row] for row in total.by_class().T.tolist()]
    counts = torch.stack([total.found, total.missed, total.wrong]).T.long().tolist()
    return [
        {"name": name, "kind": "stuff" if label in stuff else "things"}
        | dict(zip(("pq", "sq", "rq"), qualities[label], strict=True))
        | dict(zip(("found", "missed", "wrong"), counts[label], strict=True))
        for label, name in enumerate(classes)
    ]


def _shown(samples: SceneSamples, index: int, answer: dict[str, Tensor], row: dict[str, Any]) -> dict[str, Any]:
    """The row of a picture, with the picture, what was made of it, and what it should be."""
    image, truth = samples[index]
    picture, count = Image.fromarray(image.permute(1, 2, 0).numpy()), len(samples.classes)
    labels = truth["labels"].masked_fill(truth["crowd"], count)  # which has no colour

    def drawn(segments: Tensor, labels: Tensor) -> str:
        pixels = segments.as_subclass(Tensor).numpy()
        return jpeg_uri(segmented_picture(picture, pixels, labels.tolist(), count))

    views = {
        "picture": jpeg_uri(enlarged(picture)),
        "prediction": drawn(answer["segments"], answer["labels"]),
        "truth": drawn(truth["segments"], labels),
    }
    return row | views | {"told": f"PQ {percent(row['pq'])}, {row['missed']} missed, {row['wrong']} wrong"}
