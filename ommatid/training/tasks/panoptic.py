"""The task panoptic, as a training sees it: every pixel's segment, a thing or all there is of one kind of stuff."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from ommatid.data.dense import SceneData, make_detection_loader
from ommatid.models.registry import is_mask_transformer
from ommatid.report.metric import PANOPTIC_SEGMENTERS
from ommatid.runs.trained import PANOPTIC
from ommatid.training.tasks import dense
from ommatid.training.tasks.scenes import SceneTask, columns_of

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, Objective
    from ommatid.training.settings import Settings


def objective(data: SceneData, settings: Settings) -> Objective:
    from ommatid.tasks.panoptic import Segments

    stuff = tuple(data.classes.index(name) for name in data.stuff)
    return Segments(dense.sides(data, settings), len(data.classes), stuff)


def parts(batch: Batch) -> dict[str, Tensor]:
    return dense.named_parts(batch, "segments", "labels")


def picture(batch: Batch) -> Tensor:
    from ommatid.tasks.panoptic import segment_masks

    images, truth = batch
    pictures = dense.pixels_of(images).nan_to_num().clamp(0, 1)
    masks = [target["masks"] for target in segment_masks(truth)]
    return torch.stack([draw_segmentation_masks(*pair) for pair in zip(pictures, masks, strict=True)])


SEGMENTS = SceneTask(
    name=PANOPTIC,
    wanted="segments",
    recipe="detect",
    yardstick=PANOPTIC_SEGMENTERS,
    columns=columns_of("pq", "sq", "rq", "pq_things", "pq_stuff"),
    published_size=640,
    decoders=partial(dense.decoders_of, is_mask_transformer),
    usual="mask2former",
    find_model=dense.find_mask_transformer,
    objective=objective,
    make_loader=make_detection_loader,
    parts=parts,
    picture=picture,
)
