"""What detectors share that read boxes off every cell of a pyramid: towers, best boxes, how answers are numbered."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from ommatid.models.config import require
from ommatid.models.decoders.top_down import normed_conv
from ommatid.nn.conv import Conv2d

PRIOR = 0.01
"""Score of every class that training starts from: most cells see nothing."""

CANDIDATES = 1000
"""Boxes of each level that overlaps are looked for among."""


def require_strides(strides: tuple[int, ...]) -> None:
    """Raises ValueError, for a config, unless the levels halve from one to the next."""
    doubling = bool(strides) and all(stride == strides[0] * 2**level for level, stride in enumerate(strides))
    power = doubling and strides[0] > 0 and strides[0] & (strides[0] - 1) == 0
    require(power, "strides", strides, "powers of two, each twice the one before")


class Tower(nn.Sequential):
    """3x3 convolutions with group norms, the same for all levels: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__(*(normed_conv(dim, dim, 3) for _ in range(depth)))
        for conv in (module for module in self.modules() if isinstance(module, Conv2d)):
            nn.init.normal_(conv.weight, std=0.01)


def output_conv(dim: int, out_dim: int, *, prior: float = 0.5) -> Conv2d:
    """The last convolution of a tower, whose answers start as logits of the `prior`."""
    conv = Conv2d(dim, out_dim, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.constant_(conv.bias, -math.log((1 - prior) / prior))
    return conv


def cell_centers(size: tuple[int, int], stride: int, device: torch.device) -> Tensor:
    """(rows * columns, 2): (x, y) in pixels of the centres of a map's cells, row-major."""
    rows, columns = (torch.arange(side, device=device) for side in size)
    y, x = torch.meshgrid((rows + 0.5) * stride, (columns + 0.5) * stride, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def best_boxes(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    image_size: tuple[int, int],
    *,
    score_threshold: float,
    nms_threshold: float,
    most: int,
) -> dict[str, Tensor]:
    """The detections of one image.

    Args:
        scores: (n_i, K) of each level, from 0 to 1.
        boxes: (n_i, 4) of each level, x1 y1 x2 y2 in pixels.
        image_size: (height, width), which boxes are cut to.
        score_threshold: lowest score of a detection.
        nms_threshold: of two boxes of a class that overlap more, the better one stays.
        most: number of detections.
    """
    kept = [candidates(*level, score_threshold) for level in zip(scores, boxes, strict=True)]
    score, box, label = (torch.cat(parts) for parts in zip(*kept, strict=True))
    box = clip_boxes_to_image(box, image_size)
    solid = ((box[:, 2] - box[:, 0]) > 0) & ((box[:, 3] - box[:, 1]) > 0)
    score, box, label = score[solid], box[solid], label[solid]
    best = batched_nms(box, score, label, nms_threshold)[:most]
    return {"boxes": box[best], "scores": score[best], "labels": label[best]}


def candidates(scores: Tensor, boxes: Tensor, score_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, boxes and labels of a level's best pairs of cell and class."""
    flat, classes = scores.flatten(), scores.shape[1]
    count = min(CANDIDATES, int((flat >= score_threshold).sum()))
    score, index = flat.topk(count)
    return score, boxes[index // classes], index % classes
