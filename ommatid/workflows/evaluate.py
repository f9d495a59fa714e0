"""evaluate: how good a trained model is, and where it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ommatid.deployment.exported import is_exported
from ommatid.measuring.measure import usable_device
from ommatid.methods.attacks import parse_attack
from ommatid.models.config import require
from ommatid.runs.trained import CLASSIFICATION, DETECTION, INSTANCES, PANOPTIC, PRETRAINING, RESTORATION, SEGMENTATION
from ommatid.workflows.evaluate_classifier import evaluate_classifier, judge
from ommatid.workflows.evaluate_detector import evaluate_detector
from ommatid.workflows.evaluate_panoptic import evaluate_panoptic
from ommatid.workflows.evaluate_pretraining import evaluate_pretraining
from ommatid.workflows.evaluate_restorer import evaluate_restorer
from ommatid.workflows.evaluate_segmenter import evaluate_segmenter
from ommatid.workflows.opening import trained_for

__all__ = ["evaluate", "judge"]

EVALUATIONS = {
    CLASSIFICATION: evaluate_classifier,
    RESTORATION: evaluate_restorer,
    SEGMENTATION: evaluate_segmenter,
    DETECTION: evaluate_detector,
    INSTANCES: evaluate_detector,
    PANOPTIC: evaluate_panoptic,
    PRETRAINING: evaluate_pretraining,
}


def evaluate(
    run_or_weights: str | Path,
    data: str | Path | None = None,
    *,
    batch: int = 64,
    size: int | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    attack: str | None = None,
    lpips: str | Path | None = None,
) -> dict[str, Any]:
    """Judges a trained model on data with known answers and writes report.html, evaluation.json and its pictures.

    Args:
        data: as for `train`; classes are matched by name. The data that the model was trained on, which is also what
            None stands for, means its validation part as the run split it, never images that it has trained on.
        batch, size: images at a time, and their side in pixels, that of the training where not given; a restoration
            network takes whole pictures one by one, whatever these are; so do those for segmentation and detection,
            which see them with `size` as their longer side.
        out: folder for the files; `evaluation-DATA` beside the weights where not given.
        attack: for a classifier, a small change of each image that misleads it, as in "pgd 8/255 x10": how good it
            still is then.
        lpips: for a restoration network, the weights of torchvision's AlexNet, a file of torch.save or safetensors:
            LPIPS, which looks through it, is then measured too.

    Returns:
        What the page shows (see `judge`, and `evaluate_restorer`); `report`, the path of the page; `summary`, a line.

    Raises:
        ValueError: no trained model, no such data, a label that the model has never seen, an impossible value.
    """
    require(batch >= 1, "batch", batch, "1 or more")
    require(size is None or size >= 1, "size", size, "1 or more")
    place = usable_device(device)
    task = trained_for(run_or_weights)
    require(task in EVALUATIONS, "task", task, f"{', '.join(EVALUATIONS)}, in {run_or_weights}")
    special: dict[str, Any] = {}
    if lpips is not None:
        require(task == RESTORATION, "lpips", str(lpips), f"none for a {task}: it compares pictures")
        special["lpips"] = lpips
    if attack is not None:
        parse_attack(attack)
        require(task == CLASSIFICATION, "attack", attack, f"none for a {task}: attacks mislead classifiers")
        require(
            not is_exported(run_or_weights), "attack", attack, "none for an exported file: attacks follow gradients"
        )
        special["attack"] = attack
    return EVALUATIONS[task](run_or_weights, data, batch=batch, size=size, device=place, out=out, **special)
