"""How good a classifier is, how sure of itself, and where it is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification as metrics

from ommatid.data import Samples, eval_transform, make_loader, open_data, open_evaluation
from ommatid.measuring.machine import describe_machine
from ommatid.report.evaluate import evaluate_page
from ommatid.report.pictures import confusion_png, png_uri
from ommatid.runs.evaluation import evaluation_folder, judged_on, saved_evaluation
from ommatid.runs.files import replacing
from ommatid.runs.inference import probabilities
from ommatid.runs.trained import CLASSIFICATION, Trained
from ommatid.training.tasks import find_task
from ommatid.workflows.opening import open_classifier
from ommatid.workflows.under_attack import under_attack

BINS = 15
MISTAKES = 24
THUMBNAIL = 256


def evaluate_classifier(
    run_or_weights: str | Path,
    data: str | Path | None,
    *,
    batch: int,
    size: int | None,
    device: torch.device,
    out: str | Path | None,
    attack: str | None = None,
) -> dict[str, Any]:
    """As `evaluate`; the numbers are those of `judge`, the mistakes those that the model was surest of."""
    trained = open_classifier(run_or_weights)
    samples, source = open_samples(trained, data)
    size = size or trained.facts.size
    likelihoods, labels = answers(trained, samples, batch=batch, size=size, device=device)
    result = {
        "model": trained.facts.name,
        "data": source,
        **judge(likelihoods, labels, trained.facts.classes),
        "machine": describe_machine(),
        "settings": {"weights": str(trained.path), "batch": batch, "size": size, "device": str(device)},
        "mistakes": _mistakes(likelihoods, labels, samples),
        "attack": attack and under_attack(trained, samples, attack, batch=batch, size=size, device=device),
    }
    summary = (
        f"accuracy {result['accuracy']:.2%}, top 5 {result['top5']:.2%}, "
        f"calibration error {result['calibration_error']:.2%} on {result['samples']} images"
        + (f", accuracy {result['attack']['accuracy']:.2%} under {attack}" if attack else "")
    )
    folder = evaluation_folder(trained.path, source, out)
    saved = saved_evaluation(folder, result, evaluate_page(result), summary)
    with replacing(folder / "confusion.png") as draft:
        confusion_png(result["confusion"], result["classes"], draft)
    return saved


def open_samples(trained: Trained, data: str | Path | None) -> tuple[Samples, str]:
    """The images to judge on, and what to call them."""
    return judged_on(
        trained,
        data,
        find_task(CLASSIFICATION).embedded,
        lambda run: open_data(str(run.config["data"]), split=run.split).val,
        lambda other: open_evaluation(other, trained.facts.classes),
    )


def answers(
    trained: Trained, samples: Samples, *, batch: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Probabilities (N, classes) and true classes (N,) of all samples, in their order."""
    loader = make_loader(samples, eval_transform(size), batch=batch, shuffle=False, seed=0)
    model = trained.model.to(device)
    batches = [(probabilities(model, images, device), labels) for images, labels in loader]
    likelihoods, labels = zip(*batches, strict=True)
    return torch.cat(likelihoods), torch.cat(labels)


def _mistakes(likelihoods: Tensor, labels: Tensor, samples: Samples) -> list[dict[str, Any]]:
    """The wrong answers that the model was surest of."""
    confidence, predicted = likelihoods.max(1)
    wrong = predicted.ne(labels).nonzero().flatten()
    worst = wrong[confidence[wrong].argsort(descending=True)][:MISTAKES]
    return [
        {
            "image": png_uri(samples[index][0], THUMBNAIL),
            "path": samples.paths[index],
            "truth": samples.classes[int(labels[index])],
            "prediction": samples.classes[int(predicted[index])],
            "confidence": confidence[index].item(),
        }
        for index in worst.tolist()
    ]


def judge(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Every number of an evaluation, from probabilities (N, C) and true classes (N,).

    `calibration_error` is the expected calibration error over 15 bins (Guo et al., arXiv 1706.04599), `top5` the share
    of images whose class is among the five likeliest (or all, of fewer).
    """
    count = len(classes)
    confusion = metrics.multiclass_confusion_matrix(probabilities, labels, count)
    top5 = probabilities.topk(min(5, count)).indices.eq(labels[:, None]).any(1)
    return {
        "samples": len(labels),
        "accuracy": probabilities.argmax(1).eq(labels).float().mean().item(),
        "top5": top5.float().mean().item(),
        "loss": F.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
        "calibration_error": metrics.multiclass_calibration_error(probabilities, labels, count, BINS).item(),
        "per_class": _per_class(probabilities, labels, classes),
        "confusion": confusion.tolist(),
        "classes": list(classes),
        "reliability": _reliability(probabilities, labels),
    }


def _per_class(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    count = len(classes)
    precision, recall, f1 = (
        measure(probabilities, labels, count, average="none").tolist()
        for measure in (metrics.multiclass_precision, metrics.multiclass_recall, metrics.multiclass_f1_score)
    )
    support = labels.bincount(minlength=count).tolist()
    rows = zip(classes, precision, recall, f1, support, strict=True)
    return [dict(zip(("name", "precision", "recall", "f1", "support"), row, strict=True)) for row in rows]


def _reliability(probabilities: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Of each bin of confidence that holds images: their mean confidence, accuracy and number."""
    confidence, predicted = probabilities.max(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS)
    rows = []
    for number in bins.unique().tolist():
        inside = bins == number
        rows.append(
            {
                "confidence": confidence[inside].mean().item(),
                "accuracy": predicted[inside].eq(labels[inside]).float().mean().item(),
                "count": int(inside.sum()),
            }
        )
    return rows
