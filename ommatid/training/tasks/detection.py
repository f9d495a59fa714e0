"""The tasks detection and instances, as a training sees them: boxes of things, or a mask of each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from ommatid.data.dense import SceneData, make_detection_loader
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import Family, find_detector, is_detector, is_mask_transformer
from ommatid.report.metric import DETECTORS
from ommatid.runs.trained import DETECTION, INSTANCES
from ommatid.training.tasks import dense
from ommatid.training.tasks.scenes import SceneTask, columns_of

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, Objective
    from ommatid.training.settings import Settings

COLUMNS = columns_of("ap", "ap50", "ap75")


def finds_boxes(family: Family, config: PartConfig) -> bool:
    return is_detector(family, config) and not is_mask_transformer(family, config)


def find_boxes(model: str, **overrides: Any) -> tuple[Family, PartConfig]:
    family, config = find_detector(model, **overrides)
    require(finds_boxes(family, config), "model", model, "one that finds boxes, for detection")
    return family, config


def things(data: SceneData, settings: Settings, *, masks: bool) -> Objective:
    from ommatid.tasks.detection import Things

    return Things(dense.sides(data, settings), masks=masks)


def parts(batch: Batch) -> dict[str, Tensor]:
    return dense.named_parts(batch, "boxes", "labels")


def picture(batch: Batch) -> Tensor:
    images, truth = batch
    pictures = dense.pixels_of(images).nan_to_num().clamp(0, 1)
    return torch.stack(
        [draw_bounding_boxes(picture, image["boxes"]) for picture, image in zip(pictures, truth, strict=True)]
    )


BOXES = SceneTask(
    name=DETECTION,
    wanted="boxes",
    recipe="detect",
    yardstick=DETECTORS,
    columns=COLUMNS,
    published_size=640,
    decoders=partial(dense.decoders_of, finds_boxes),
    usual="fcos",
    find_model=find_boxes,
    objective=partial(things, masks=False),
    make_loader=make_detection_loader,
    parts=parts,
    picture=picture,
)

MASKS = SceneTask(
    name=INSTANCES,
    wanted="outlines",
    recipe="detect",
    yardstick=DETECTORS,
    columns=COLUMNS,
    published_size=640,
    decoders=partial(dense.decoders_of, is_mask_transformer),
    usual="mask2former",
    find_model=dense.find_mask_transformer,
    objective=partial(things, masks=True),
    make_loader=make_detection_loader,
    parts=parts,
    picture=picture,
)
