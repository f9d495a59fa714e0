"""The task segmentation, as a training sees it: a class for every pixel of each image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ommatid.data.dense import IGNORED, SceneData, SceneSamples, make_segmentation_loader
from ommatid.models.registry import find_segmenter
from ommatid.report.metric import SEGMENTERS
from ommatid.runs.trained import SEGMENTATION
from ommatid.tasks.segmentation_losses import LOSSES
from ommatid.tasks.whole_or_window import Segmentation
from ommatid.training.tasks import dense
from ommatid.training.tasks.scenes import SceneTask, columns_of
from ommatid.training.tasks.task import RATES

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, Objective
    from ommatid.training.settings import Settings


def objective(data: SceneData, settings: Settings) -> Objective:
    from ommatid.tasks.segmentation import Pixels

    recipe = settings.recipe
    return Pixels(
        len(data.classes),
        recipe.loss or next(iter(LOSSES)),
        Segmentation(recipe.scenes.view, dense.sides(data, settings)),
        class_weights(data.train, recipe.class_balance) if recipe.class_balance else None,
    )


def class_weights(samples: SceneSamples, power: float) -> Tensor:
    """(C,): each class's share of the pixels to the minus `power`, one in the mean over pixels."""
    counts = torch.zeros(len(samples.classes) + 1, dtype=torch.int64)
    for index in range(len(samples)):
        mask = samples[index][1]["mask"].as_subclass(Tensor).long()
        mask[mask == IGNORED] = len(samples.classes)
        counts += torch.bincount(mask.flatten(), minlength=len(counts))
    shares = (counts[:-1] / counts[:-1].sum()).clamp_min(1e-6)
    weights = shares**-power
    return (weights / (shares * weights).sum()).float()


def parts(batch: Batch) -> dict[str, Tensor]:
    images, classes = batch
    return {"images": images, "classes": classes}


def picture(batch: Batch) -> Tensor:
    return dense.pixels_of(batch[0])


PIXELS = SceneTask(
    name=SEGMENTATION,
    wanted="masks",
    recipe="segment",
    yardstick=SEGMENTERS,
    columns=columns_of("miou", "pixel_accuracy", "mean_accuracy"),
    published_size=512,
    decoders=dense.segmentation_decoders,
    usual="mlp",
    find_model=find_segmenter,
    objective=objective,
    make_loader=make_segmentation_loader,
    parts=parts,
    picture=picture,
    losses=tuple(LOSSES),
    heeds=(*RATES, "class_balance"),
    views=("whole", "window"),
)
