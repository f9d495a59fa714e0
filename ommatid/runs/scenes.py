"""Annotated pictures for a trained network, and pictures through it: for evaluate and predict."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ommatid.data.dense import SceneSamples, normalized, open_scene_evaluation, open_scenes
from ommatid.data.dense.open import EMBEDDED, Wanted
from ommatid.models.dense import Detector, MaskTransformer
from ommatid.runs.evaluation import judged_on
from ommatid.runs.run import Run
from ommatid.runs.trained import TrainedScenes
from ommatid.tasks.detection import MOST, detect
from ommatid.tasks.panoptic import segmented
from ommatid.tasks.whole_or_window import Segmentation


def open_samples(trained: TrainedScenes, data: str | Path | None, wanted: Wanted) -> tuple[SceneSamples, str]:
    """The pictures to judge on, and what to call them."""

    def validation(run: Run) -> SceneSamples:
        return open_scenes(str(run.config["data"]), wanted, seed=run.config["seed"], split=run.split).val

    def others(data: str | Path) -> SceneSamples:
        return open_scene_evaluation(data, wanted, trained.facts.classes)

    return judged_on(trained, data, EMBEDDED, validation, others)


def resized(sides: tuple[int, int], size: int | None) -> tuple[int, int]:
    """Height and width of the same shape, the longer side being `size`."""
    if size is None:
        return sides
    height, width = (max(1, round(side * size / max(sides))) for side in sides)
    return height, width


@torch.inference_mode()
def classes_of(trained: TrainedScenes, through: Segmentation, image: Tensor, device: torch.device) -> Tensor:
    """(3, H, W) uint8 -> (H, W): the likeliest class of every pixel, on the CPU."""
    return through(trained.model, normalized(image)[None].to(device))[0].argmax(0).cpu()


@torch.inference_mode()
def things_of(
    trained: TrainedScenes, sides: tuple[int, int], image: Tensor, device: torch.device, *, score: float
) -> dict[str, Tensor]:
    """(3, H, W) uint8 -> boxes (n, 4) in its pixels, scores and labels (n,), maybe masks; best first, on the CPU."""
    assert isinstance(trained.model, Detector)
    images = normalized(image)[None].to(device)
    found = detect(trained.model, images, sides, score_threshold=score, most=MOST)[0]
    return {name: value.float().cpu() if name in ("boxes", "scores") else value.cpu() for name, value in found.items()}


@torch.inference_mode()
def segments_of(
    trained: TrainedScenes, sides: tuple[int, int], image: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """(3, H, W) uint8 -> segments (H, W) from 1, 0 for none, labels and scores (n,) of each, on the CPU."""
    assert isinstance(trained.model, MaskTransformer)
    images = normalized(image)[None].to(device)
    found = segmented(trained.model, images, sides, trained.facts.things)[0]
    return {name: value.float().cpu() if name == "scores" else value.cpu() for name, value in found.items()}
