"""predict: what is on images that nobody has labelled, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ommatid.data import Images, Skipped, eval_transform, open_images
from ommatid.measuring.measure import usable_device
from ommatid.models.config import require
from ommatid.report.pictures import labelled_png
from ommatid.report.table import csv_text
from ommatid.runs.files import check_writable, replacing, write_json, write_text
from ommatid.runs.inference import probabilities
from ommatid.runs.trained import Trained
from ommatid.workflows.opening import open_classifier, open_scene_network, trained_for
from ommatid.workflows.predict_scenes import WORK, ScenePrediction, predict_scenes, scenes_csv


@dataclass(frozen=True)
class Label:
    """One of the model's classes, and how likely it is."""

    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What was seen on one image: its likeliest classes, likeliest first."""

    path: str
    labels: list[Label]

    @property
    def told(self) -> str:
        """A line for people."""
        return ", ".join(f"{label.name} {label.probability:.1%}" for label in self.labels)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Predictions:
    """One entry for each image that could be read; the others are in `skipped`, with the reason."""

    predictions: Sequence[Prediction | ScenePrediction]
    skipped: list[Skipped]


def predict(
    run_or_weights: str | Path,
    paths: Sequence[str | Path],
    *,
    top: int = 5,
    batch: int = 64,
    device: str = "cpu",
    out: str | Path | None = None,
    csv: str | Path | None = None,
    json: str | Path | None = None,
    pictures: str | Path | None = None,
) -> Predictions:
    """Says what is on image files, and all images below folders: classes, and of dense models where.

    Args:
        top: how many classes to name per image; all of them where there are fewer. For segmentation and detection, how
            many classes or things are in its line; files have all.
        csv, json: files to write the predictions to.
        pictures: folder for a copy of each image with its labels written under it, or masks and boxes drawn on it, as
            PNG; masks themselves are in masks/ below it, PNG files of class numbers, or of segments as COCO has them.
        out: folder for all three: predictions.csv, predictions.json and pictures/.

    Raises:
        ValueError: no trained model, none of the images can be read, an impossible value.
    """
    require(top >= 1, "top", top, "1 or more")
    require(batch >= 1, "batch", batch, "1 or more")
    place = usable_device(device)
    dense = trained_for(run_or_weights) in WORK
    images = open_images(list(paths))
    if out is not None:
        csv, json, pictures = (
            given or Path(out) / name
            for given, name in ((csv, "predictions.csv"), (json, "predictions.json"), (pictures, "pictures"))
        )
    csv, json = (None if path is None else _parent_made(path) for path in (csv, json))
    for path in filter(None, (csv, json)):
        check_writable(path)
    folder = None if pictures is None else Path(pictures).expanduser()
    if dense:
        seen = list(predict_scenes(open_scene_network(run_or_weights), images, top=top, device=place, pictures=folder))
        text = scenes_csv(seen)
    else:
        trained = open_classifier(run_or_weights)
        found = list(_named(trained, images, top=top, batch=batch, device=place, pictures=folder))
        text = predictions_csv(found)
    result = Predictions(seen if dense else found, images.skipped)
    if csv is not None:
        write_text(csv, text)
    if json is not None:
        write_json(json, _json(result))
    return result


def _named(
    trained: Trained, images: Images, *, top: int, batch: int, device: torch.device, pictures: Path | None
) -> Iterator[Prediction]:
    """Every prediction in turn, its picture written to `pictures`."""
    classified = _classified(trained, images, top=top, batch=batch, device=device)
    for number, (prediction, image) in enumerate(classified, start=1):
        if pictures is not None:
            # Numbered, so that files of one name in different folders do not overwrite each other.
            _write_picture(image, prediction, pictures / f"{number:05}-{Path(prediction.path).stem}.png")
        yield prediction


def predictions_csv(predictions: Sequence[Prediction]) -> str:
    """One row per image: path,label,probability and, for further classes, label_2,probability_2 and so on."""
    further = range(2, len(predictions[0].labels) + 1)
    columns = (column for rank in further for column in (f"label_{rank}", f"probability_{rank}"))
    rows = [
        [one.path, *(cell for label in one.labels for cell in (label.name, f"{label.probability:.6f}"))]
        for one in predictions
    ]
    return csv_text([["path", "label", "probability", *columns], *rows])


def _classified(
    trained: Trained, images: Images, *, top: int, batch: int, device: torch.device
) -> Iterator[tuple[Prediction, Image.Image]]:
    transform, model = eval_transform(trained.facts.size), trained.model.to(device)
    for group in _batches(images, batch):
        answers = probabilities(model, torch.stack([transform(image) for _, image in group]), device)
        for (path, image), answer in zip(group, answers, strict=True):
            yield Prediction(str(path), _likeliest(answer, trained.facts.classes, top)), image


def _batches(images: Images, batch: int) -> Iterator[list[tuple[Path, Image.Image]]]:
    rest = iter(images)
    while group := list(islice(rest, batch)):
        yield group


def _likeliest(answer: Tensor, classes: Sequence[str], top: int) -> list[Label]:
    values, indices = answer.topk(min(top, len(classes)))
    return [Label(classes[index], value) for value, index in zip(values.tolist(), indices.tolist(), strict=True)]


def _json(result: Predictions) -> dict[str, Any]:
    return {
        "predictions": [prediction.to_dict() for prediction in result.predictions],
        "skipped": [skip._asdict() for skip in result.skipped],
    }


def _write_picture(image: Image.Image, prediction: Prediction, path: Path) -> None:
    lines = [f"{label.name} {label.probability:.1%}" for label in prediction.labels]
    with replacing(_parent_made(path)) as draft:
        labelled_png(image, lines, draft)


def _parent_made(path: str | Path) -> Path:
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
