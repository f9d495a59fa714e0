"""What is where on pictures that nobody has annotated: a class or a segment for every pixel, or boxes of things."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ommatid.data import Images
from ommatid.data.dense.segments import colours_of_ids
from ommatid.report.drawing import marked_picture, masked_picture, segmented_picture
from ommatid.report.table import csv_text
from ommatid.runs.files import replacing
from ommatid.runs.scenes import classes_of, segments_of, things_of
from ommatid.runs.trained import DETECTION, INSTANCES, PANOPTIC, SEGMENTATION, TrainedScenes
from ommatid.tasks.whole_or_window import Segmentation
from ommatid.workflows.evaluate_detector import SCORE, seen


@dataclass(frozen=True)
class ScenePrediction:
    """What was seen on one picture.

    told: a line for people. shares: of the pixels, by class, largest first. things: class, score and box (left, top,
    right, bottom in pixels), surest first. segments: id, class, score and share of the pixels, largest first. A network
    gives one of the three.
    """

    path: str
    told: str
    shares: dict[str, float] | None = None
    things: list[dict[str, Any]] | None = None
    segments: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        answers = {"shares": self.shares, "things": self.things, "segments": self.segments}
        return {"path": self.path} | {name: answer for name, answer in answers.items() if answer is not None}


def predict_scenes(
    trained: TrainedScenes, images: Images, *, top: int, device: torch.device, pictures: Path | None
) -> Iterator[ScenePrediction]:
    """Every picture in turn.

    top: how many classes, or things, are named in the line. pictures: a folder for what was seen, drawn on a copy of
    each picture; and below it masks/, PNG files of class numbers, or of segments as COCO has them.
    """
    trained.model.to(device)
    work = WORK[trained.facts.task]
    for number, (path, image) in enumerate(images, start=1):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        prediction, drawn, mask = work(trained, str(path), image, pixels, top, device)
        if pictures is not None:
            # Numbered, so that files of one name in different folders do not overwrite each other.
            name = f"{number:05}-{path.stem}.png"
            _write(drawn, pictures / name)
            if mask is not None:
                _write(mask, pictures / "masks" / name)
        yield prediction


def scenes_csv(predictions: Sequence[ScenePrediction]) -> str:
    """A row for each class that a picture has, path,class,share; or for each thing, or segment."""
    if predictions[0].shares is not None:
        rows = [[one.path, name, f"{share:.6f}"] for one in predictions for name, share in (one.shares or {}).items()]
        return csv_text([["path", "class", "share"], *rows])
    if predictions[0].segments is not None:
        rows = [
            [one.path, segment["class"], f"{segment['score']:.6f}", f"{segment['share']:.6f}", str(segment["id"])]
            for one in predictions
            for segment in one.segments or ()
        ]
        return csv_text([["path", "class", "score", "share", "id"], *rows])
    rows = [
        [one.path, thing["class"], f"{thing['score']:.6f}", *(f"{edge:.2f}" for edge in thing["box"])]
        for one in predictions
        for thing in one.things or ()
    ]
    return csv_text([["path", "class", "score", "left", "top", "right", "bottom"], *rows])


def _pixels(
    trained: TrainedScenes, path: str, image: Image.Image, pixels: Tensor, top: int, device: torch.device
) -> tuple[ScenePrediction, Image.Image, Image.Image | None]:
    classes = trained.facts.classes
    answer = classes_of(trained, Segmentation(trained.facts.view, trained.facts.sides), pixels, device)
    shares = answer.flatten().bincount(minlength=len(classes)) / answer.numel()
    largest = [label for label in shares.argsort(descending=True).tolist() if shares[label] > 0]
    named = {classes[label]: shares[label].item() for label in largest}
    told = ", ".join(f"{name} {share:.1%}" for name, share in list(named.items())[:top])
    mask = answer.byte().numpy()
    return ScenePrediction(path, told, named), masked_picture(image, mask, len(classes)), Image.fromarray(mask)


def _things(
    trained: TrainedScenes, path: str, image: Image.Image, pixels: Tensor, top: int, device: torch.device
) -> tuple[ScenePrediction, Image.Image, Image.Image | None]:
    classes = trained.facts.classes
    found = things_of(trained, trained.facts.sides, pixels, device, score=SCORE)
    rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    things = [{"class": classes[label], "score": score, "box": box} for label, score, box in rows]
    told = ", ".join(f"{thing['class']} {thing['score']:.1%}" for thing in things[:top]) or "nothing"
    more = f" and {len(things) - top} more" if len(things) > top else ""
    drawn = marked_picture(image, seen(found, classes, SCORE), len(classes))
    return ScenePrediction(path, told + more, things=things), drawn, None


def _segments(
    trained: TrainedScenes, path: str, image: Image.Image, pixels: Tensor, top: int, device: torch.device
) -> tuple[ScenePrediction, Image.Image, Image.Image | None]:
    classes = trained.facts.classes
    found = segments_of(trained, trained.facts.sides, pixels, device)
    numbers, labels = found["segments"].numpy(), found["labels"].tolist()
    shares = (np.bincount(numbers.ravel(), minlength=len(labels) + 1)[1:] / numbers.size).tolist()
    rows = zip(labels, found["scores"].tolist(), shares, strict=True)
    segments: list[dict[str, Any]] = [
        {"id": id, "class": classes[label], "score": score, "share": share}
        for id, (label, score, share) in enumerate(rows, start=1)
    ]
    segments.sort(key=lambda segment: -segment["share"])
    told = ", ".join(f"{segment['class']} {segment['share']:.1%}" for segment in segments[:top]) or "nothing"
    more = f" and {len(segments) - top} more" if len(segments) > top else ""
    drawn = segmented_picture(image, numbers, labels, len(classes))
    return ScenePrediction(path, told + more, segments=segments), drawn, Image.fromarray(colours_of_ids(numbers))


WORK = {SEGMENTATION: _pixels, DETECTION: _things, INSTANCES: _things, PANOPTIC: _segments}
"""How a picture goes through the network of each task."""


def _write(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        image.save(draft, format="PNG")
