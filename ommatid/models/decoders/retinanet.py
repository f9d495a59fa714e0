"""RetinaNet: boxes of a few shapes on every cell, scored and moved.

"Focal Loss for Dense Object Detection" (arXiv 1708.02002).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, sigmoid_focal_loss

from ommatid.models.config import require, require_positive
from ommatid.models.decoders.encoder import Encoder, EncoderConfig
from ommatid.models.decoders.one_stage import (
    PRIOR,
    Tower,
    cell_centers,
    output_conv,
    require_strides,
)
from ommatid.models.decoders.top_down import FeaturePyramidNetwork
from ommatid.models.dense import Detector, Targets
from ommatid.models.registry import register

LARGEST_STEP = 4.0
"""Of the logarithm of a side: boxes grow and shrink by less than e to its power."""


@dataclass(frozen=True, kw_only=True)
class RetinaNetConfig(EncoderConfig):
    """`strides` are those of the levels, fine to coarse; `decoder_dim` is their width, `head_depth` the
    number of convolutions of each tower.

    Anchors have sides of `anchor_size` strides, times `scales`, at each of the `ratios` of height to width. Those that
    overlap a box by `match_iou` stand for it, those below `miss_iou` for nothing.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    decoder_dim: int = 128
    head_depth: int = 2
    anchor_size: float = 4.0
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    match_iou: float = 0.5
    miss_iou: float = 0.4
    nms_threshold: float = 0.5

    def check(self) -> None:
        super().check()
        require_positive(
            decoder_dim=self.decoder_dim,
            head_depth=self.head_depth,
            anchor_size=self.anchor_size,
            scales=self.scales,
            ratios=self.ratios,
        )
        require_strides(self.strides)
        ordered = 0 < self.miss_iou <= self.match_iou <= 1
        require(ordered, "miss_iou", self.miss_iou, f"above 0, up to match_iou ({self.match_iou}), which is up to 1")
        require(0 < self.nms_threshold <= 1, "nms_threshold", self.nms_threshold, "above 0, up to 1")


@register("retinanet", RetinaNetConfig)
class RetinaNet(Detector):
    """A detector of boxes on any backbone.

    `forward` gives for each level i, from the finest: class_logits{i} (B, h, w, A K) and moves{i} (B, h, w, A 4) of the
    A anchors of each cell, (dx, dy) in sides of the anchor and the logarithms of its growth.
    """

    config: RetinaNetConfig

    def __init__(self, config: RetinaNetConfig) -> None:
        super().__init__(config)
        anchors = len(config.scales) * len(config.ratios)
        self.num_classes, self.overlap = config.num_classes, config.nms_threshold
        self.levels = tuple((stride, anchors) for stride in config.strides)
        self.encoder = Encoder(config, config.strides)
        self.no_decay = self.encoder.backbone.no_decay
        self.decoder = FeaturePyramidNetwork(self.encoder.channels, config.decoder_dim)
        self.class_tower = Tower(config.decoder_dim, config.head_depth)
        self.box_tower = Tower(config.decoder_dim, config.head_depth)
        self.classes = output_conv(config.decoder_dim, anchors * config.num_classes, prior=PRIOR)
        self.moves = output_conv(config.decoder_dim, anchors * 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for index, level in enumerate(self.decoder(self.encoder(image))):
            outputs[f"class_logits{index}"] = self.classes(self.class_tower(level))
            outputs[f"moves{index}"] = self.moves(self.box_tower(level))
        return outputs

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Focal loss of the classes, and L1 of how anchors are to move."""
        outputs = self(image)
        levels = range(len(self.config.strides))
        classes = torch.cat(
            [outputs[f"class_logits{i}"].float().flatten(1).unflatten(1, (-1, self.num_classes)) for i in levels], dim=1
        )
        moves = torch.cat([outputs[f"moves{i}"].float().flatten(1).unflatten(1, (-1, 4)) for i in levels], dim=1)
        anchors = torch.cat([self.anchors(outputs, level) for level in levels])
        matched = [self.match(target, anchors) for target in targets]
        label, boxes = (torch.stack(parts) for parts in zip(*matched, strict=True))
        inside, judged = label >= 0, label >= NOTHING
        one_hot = F.one_hot(label.clamp(min=0), self.num_classes) * inside[..., None]
        count = inside.sum().clamp(min=1)
        wanted = moves_to(anchors.expand(len(targets), -1, -1)[inside], boxes[inside])
        focal = sigmoid_focal_loss(classes[judged], one_hot[judged].to(classes.dtype), reduction="sum")
        return {
            "classes": focal / count,
            "boxes": F.smooth_l1_loss(moves[inside], wanted, beta=0.1, reduction="sum") / count,
        }

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self(image)
        levels = range(len(self.config.strides))
        logits = [outputs[f"class_logits{level}"].float().flatten(1) for level in levels]
        moves = [outputs[f"moves{level}"].float().flatten(1).unflatten(1, (-1, 4)) for level in levels]
        boxes = [moved(self.anchors(outputs, level), moves[level]) for level in levels]
        return torch.cat(boxes, 1), torch.cat(logits, 1).sigmoid().unflatten(1, (-1, self.num_classes))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        return self.encoder.padded_size(height, width)

    def anchors(self, outputs: dict[str, Tensor], level: int) -> Tensor:
        """(h w A, 4): the anchors of a level, x1 y1 x2 y2 in pixels, those of a cell one after another."""
        config, cells = self.config, outputs[f"moves{level}"]
        stride = config.strides[level]
        scales, ratios = (torch.tensor(values, device=cells.device) for values in (config.scales, config.ratios))
        sides = config.anchor_size * stride * scales[:, None]
        half = torch.stack([sides / ratios.sqrt(), sides * ratios.sqrt()], dim=-1).flatten(0, 1) / 2
        centers = cell_centers((cells.shape[1], cells.shape[2]), stride, cells.device)[:, None]
        return torch.cat([centers - half, centers + half], dim=-1).flatten(0, 1)

    def match(self, target: dict[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) labels of the anchors, NOTHING or UNCLEAR where there is none, and (N, 4) the boxes they stand for.

        Every box is also stood for by the anchors that overlap it most.
        """
        boxes, labels = target["boxes"].to(anchors.dtype), target["labels"].long()
        if not len(boxes):
            return labels.new_full((len(anchors),), NOTHING), torch.zeros_like(anchors)
        overlap = box_iou(anchors, boxes)
        best, chosen = overlap.max(1)
        label = torch.where(best >= self.config.match_iou, labels[chosen], UNCLEAR)
        label = torch.where(best < self.config.miss_iou, NOTHING, label)
        nearest = ((overlap == overlap.amax(0)) & (overlap > 0)).any(1)
        return torch.where(nearest, labels[chosen], label), boxes[chosen]


NOTHING, UNCLEAR = -1, -2
"""Labels of anchors that stand for no box, and of those that nearly do."""


def moves_to(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How anchors (n, 4) become boxes (n, 4): centre by sides of the anchor, sides by logarithms."""
    anchor_sides, sides = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2
    return torch.cat([shift / anchor_sides, (sides.clamp(min=1e-3) / anchor_sides).log()], dim=-1)


def moved(anchors: Tensor, moves: Tensor) -> Tensor:
    """Undoes `moves_to`."""
    sides = anchors[..., 2:] - anchors[..., :2]
    center = (anchors[..., :2] + anchors[..., 2:]) / 2 + moves[..., :2] * sides
    half = sides * moves[..., 2:].clamp(max=LARGEST_STEP).exp() / 2
    return torch.cat([center - half, center + half], dim=-1)
