"""Exported files of networks for scenes and for restoration, behind the contracts of the models they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ommatid.deployment.dense import VIEWS
from ommatid.deployment.export import Run
from ommatid.deployment.exported import need, opened_file, read_description
from ommatid.models.config import PartConfig
from ommatid.models.decoders.mask_transformer import MaskAnswers
from ommatid.models.dense import DenseModel, Detector, Segmenter
from ommatid.models.restorer import Restorer, Sides, mirrored
from ommatid.models.sizes import ImageSizes
from ommatid.runs.trained import (
    DETECTION,
    INSTANCES,
    PANOPTIC,
    RESTORATION,
    SEGMENTATION,
    RestorerFacts,
    SceneFacts,
    TrainedRestorer,
    TrainedScenes,
)

SCENE_KEYS = ("classes", "sides", "view", "mean", "std")
RESTORER_KEYS = ("undoes", "scale", "size", "multiple", "shortest", "longest")
"""What descriptions have to say beyond those of all files."""

NOTHING = 1e-12
"""Least probability, so that it has a logarithm."""


@dataclass(frozen=True, kw_only=True)
class FileConfig(PartConfig):
    """Of a model that is a file: what its description calls it."""

    told: str


class SceneFile:
    """A file that takes images (B, 3, H, W) of some sides: others are padded with zeros below and on the right."""

    def __init__(self, run: Run, sizes: ImageSizes) -> None:
        self.run = run
        self.sizes = sizes

    def __call__(self, image: Tensor) -> tuple[Tensor, ...]:
        """The parts of its answer, where the image is. Raises ValueError for one that is too large."""
        height, width = image.shape[-2:]
        rows, columns = self.sizes.fitting(height, width)
        answer = self.run(F.pad(image, (0, columns - width, 0, rows - height)).cpu().float())
        return tuple(part.to(image.device) for part in ((answer,) if isinstance(answer, Tensor) else answer))


class ExportedSegmenter(Segmenter):
    def __init__(self, file: SceneFile, told: dict[str, Any]) -> None:
        super().__init__(FileConfig(told=told["model"]))
        self.file, self.num_classes = file, len(told["classes"])

    def forward(self, image: Tensor) -> Tensor:
        (logits,) = self.file(image)
        return logits[..., : image.shape[2], : image.shape[3]]


class ExportedDetector(Detector):
    def __init__(self, file: SceneFile, told: dict[str, Any]) -> None:
        super().__init__(FileConfig(told=told["model"]))
        self.file, self.num_classes, self.overlap = file, len(told["classes"]), told["overlap"]
        self.levels = tuple((stride, each) for stride, each in told["levels"])

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.file.sizes.fitting(height, width)

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores = self.file(image)
        return boxes, scores


class ExportedMasks(MaskAnswers):
    def __init__(self, file: SceneFile, told: dict[str, Any]) -> None:
        super().__init__(FileConfig(told=told["model"]))
        self.file, self.num_classes = file, len(told["classes"])

    def whole(self, image: Tensor) -> tuple[Tensor, Tensor]:
        scores, masks = self.file(image)
        nothing = 1 - scores.sum(-1, keepdim=True)
        classes = torch.cat([scores, nothing], -1).clamp_min(NOTHING).log()
        return classes, masks[..., : image.shape[2], : image.shape[3]]


class ExportedRestorer(Restorer):
    """A file of pictures of some sides: others are continued to them by mirroring, larger ones go in tiles."""

    def __init__(self, run: Run, told: dict[str, Any]) -> None:
        super().__init__(FileConfig(told=told["model"]))
        self.run, self.scale = run, told["scale"]
        rows, columns = told["multiple"]
        self.multiple, self.longest = (rows, columns), None if told["longest"] is None else min(told["longest"])
        self.sides = Sides(self.multiple, max(told["shortest"]), self.longest)

    def restore(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        answer = self.run(mirrored(image, self.sides.nearest(height, width)).cpu().float())
        return answer[..., : self.scale * height, : self.scale * width].to(image.device)


def open_exported_dense(path: str | Path) -> TrainedScenes:
    """Opens an exported network for scenes. Raises ValueError, in one line, where it is none or can't be run here."""
    path = Path(path).expanduser()
    told = read_description(path)
    if told["task"] not in (SEGMENTATION, DETECTION, INSTANCES, PANOPTIC):
        raise ValueError(f"{path} is of a {told['task']}: it knows neither pixels' classes nor boxes")
    need(path, told, (*SCENE_KEYS, *(("overlap", "levels") if told["task"] == DETECTION else ())))
    facts = SceneFacts(
        task=told["task"],
        name=told["model"],
        classes=tuple(told["classes"]),
        sides=(told["sides"][0], told["sides"][1]),
        view="window" if told["view"] == VIEWS["window"] else "whole",
        mean=tuple(told["mean"]),
        std=tuple(told["std"]),
        stuff=tuple(told.get("stuff", ())),
    )
    sizes = ImageSizes(fixed=facts.sides)
    if "multiple" in told:
        sizes = ImageSizes(multiple=told["multiple"][0], smallest=max(told["shortest"]))
    file = SceneFile(opened_file(path, told), sizes)
    return TrainedScenes(_model(file, told), facts, path, None)


def open_exported_restorer(path: str | Path) -> TrainedRestorer:
    """Opens an exported restoration network; as `open_exported_dense`."""
    path = Path(path).expanduser()
    told = read_description(path)
    if told["task"] != RESTORATION:
        raise ValueError(f"{path} is of a {told['task']}, which restores no pictures")
    need(path, told, RESTORER_KEYS)
    facts = RestorerFacts(told["model"], told["undoes"], told["size"])
    return TrainedRestorer(ExportedRestorer(opened_file(path, told), told), facts, path, None)


def _model(file: SceneFile, told: dict[str, Any]) -> DenseModel:
    if told["task"] == SEGMENTATION:
        return ExportedSegmenter(file, told)
    return ExportedDetector(file, told) if told["task"] == DETECTION else ExportedMasks(file, told)
