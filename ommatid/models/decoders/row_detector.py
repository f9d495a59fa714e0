"""Detectors written as rows, without anchors: every cell says how far away the edges of its thing are.

The head of the YOLO family since version 8: classes and boxes by branches of their own, distances as distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require
from ommatid.models.decoders.one_stage import boxes_at, cell_centers
from ommatid.models.decoders.rows import DETECTOR_NORMS, Graph, Maker, RowGraph, Scaling, rows_of, set_batch_norms_
from ommatid.models.decoders.task_aligned import CLASS, box_losses, task_aligned
from ommatid.models.dense import Detector, Targets
from ommatid.nn.conv import Conv2d

BINS = 16
"""Distances that a box's edge is a mixture of: 0 to 15 cells."""

PRIOR_THINGS, PRIOR_SIDE = 5, 640
"""What training starts from: so many things in an image of such sides, on each level."""

OVERLAP = 0.7

Branch = Callable[[int, int, int], nn.Module]
"""Makes one branch of the head on one level, of the widths of the map, inside and of the answer."""


class DistanceHead(nn.Module):
    """Maps (B, H_i, W_i, C_i), fine to coarse -> for each, logits of distances (B, H_i, W_i, 4 bins) and of classes.

    Args:
        dims: C_i.
        strides: of the maps, in pixels.
        num_classes: K.
        branch: makes the branches.

    Attributes:
        distances: (bins,), what the bins stand for, in cells; a constant that counts as a parameter, as published.
    """

    def __init__(self, dims: Sequence[int], strides: Sequence[int], num_classes: int, branch: Branch) -> None:
        super().__init__()
        box_dim, class_dim = max(16, dims[0] // 4, 4 * BINS), max(dims[0], min(num_classes, 100))
        self.boxes = nn.ModuleList(branch(dim, box_dim, 4 * BINS) for dim in dims)
        self.classes = nn.ModuleList(branch(dim, class_dim, num_classes) for dim in dims)
        for stride, boxes, classes in zip(strides, self.boxes, self.classes, strict=True):
            share = PRIOR_THINGS / num_classes / (PRIOR_SIDE / stride) ** 2
            nn.init.ones_(last_bias(boxes))
            nn.init.constant_(last_bias(classes), math.log(share))
        self.distances = nn.Parameter(torch.arange(float(BINS)), requires_grad=False)

    def forward(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        levels = zip(self.boxes, self.classes, maps, strict=True)
        return [(boxes(level), classes(level)) for boxes, classes, level in levels]


def last_bias(branch: nn.Module) -> Tensor:
    *_, last = (module for module in branch.modules() if isinstance(module, Conv2d))
    assert last.bias is not None
    return last.bias


class RowDetector(Detector):
    """A graph of rows that ends with a row [[levels...], "detect"], fine to coarse.

    `forward` gives for each level i: bins{i} (B, h, w, 64), logits of the distances from a cell's centre to the left,
    top, right and bottom, 16 for each, in cells; and class_logits{i} (B, h, w, K). Images are zero-padded at the bottom
    and right to multiples of the coarsest stride.

    Args:
        config: of the family.
        graph: the rows.
        in_channels, scaling, makers: as in `RowGraph`.
        branch: as in `DistanceHead`.
    """

    def __init__(
        self,
        config: PartConfig,
        graph: Graph,
        *,
        in_channels: int,
        scaling: Scaling,
        makers: Mapping[str, Maker],
        branch: Branch,
    ) -> None:
        super().__init__(config)
        *rows, last = rows_of(graph)
        require(not last.arguments, f"graph[{len(rows)}]", list(last), "[from, 'detect']")
        require(scaling.num_classes > 0, "num_classes", scaling.num_classes, "1 or more")
        self.num_classes, self.overlap = scaling.num_classes, OVERLAP
        self.rows = RowGraph(rows, in_channels, makers, scaling)
        self.sources = last.sources
        found = [self.rows.strides[source] for source in last.sources]
        whole = all(stride.denominator == 1 for stride in found) and found == sorted(set(found))
        require(
            whole, f"graph[{len(rows)}] from", list(last.sources), "rows from fine to coarse, none finer than the image"
        )
        self.strides = tuple(int(stride) for stride in found)
        self.levels = tuple((stride, 1) for stride in self.strides)
        dims = [self.rows.dims[source] for source in last.sources]
        self.head = DistanceHead(dims, self.strides, scaling.num_classes, branch)
        set_batch_norms_(self, **DETECTOR_NORMS)

    def maps(self, image: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """(B, in_channels, H, W) -> the channels-last maps of some rows."""
        return self.rows(channels_last(self.rows.padded(image)), wanted)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for index, (bins, class_logits) in enumerate(self.head(self.maps(image, self.sources))):
            outputs |= {f"bins{index}": bins, f"class_logits{index}": class_logits}
        return outputs

    def idle_parameters(self) -> set[str]:
        return {f"rows.{name}" for name in self.rows.unread_parameters(self.sources)}

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.rows.multiple
        return height + -height % multiple, width + -width % multiple

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        bins, class_logits, centres, strides = self._cells(self(image))
        return self._boxes(bins, centres, strides), class_logits.sigmoid()

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Cross-entropy of the classes; complete IoU of the boxes, and the likeness of distances to the true ones."""
        bins, class_logits, centres, strides = self._cells(self(image))
        boxes = self._boxes(bins, centres, strides)
        truths = zip(class_logits.sigmoid(), boxes, targets, strict=True)
        assigned = [
            task_aligned(score.detach(), box.detach(), centres, target["boxes"].float(), target["labels"].long())
            for score, box, target in truths
        ]
        wanted, things = (torch.stack(parts) for parts in zip(*assigned, strict=True))
        weights = wanted.sum(-1)
        chosen, total = weights > 0, weights.sum().clamp_min(1.0)
        places, steps = (values.expand(len(targets), -1, -1)[chosen] for values in (centres, strides))
        true = things[chosen]
        distances = torch.cat([places - true[:, :2], true[:, 2:] - places], dim=-1) / steps
        terms = box_losses(boxes[chosen], true, bins[chosen], distances, weights[chosen])
        classes = F.binary_cross_entropy_with_logits(class_logits, wanted, reduction="sum")
        return {name: value / total for name, value in ({"classes": CLASS * classes} | terms).items()}

    def _boxes(self, bins: Tensor, centres: Tensor, strides: Tensor) -> Tensor:
        """(B, N, 4, 16) logits of distances -> (B, N, 4), x1 y1 x2 y2 in pixels, by the expected distances."""
        return boxes_at(centres, bins.softmax(-1) @ self.head.distances.float() * strides)

    def _cells(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of all cells, level by level: bins (B, N, 4, 16), class logits (B, N, K), centres (N, 2), strides (N, 1)."""
        bins, logits, centres, strides = [], [], [], []
        for index, stride in enumerate(self.strides):
            level = outputs[f"bins{index}"]
            bins.append(level.float().flatten(1, 2).unflatten(-1, (4, BINS)))
            logits.append(outputs[f"class_logits{index}"].float().flatten(1, 2))
            centres.append(cell_centers((level.shape[1], level.shape[2]), stride, level.device))
            strides.append(torch.full_like(centres[-1][:, :1], stride))
        return torch.cat(bins, 1), torch.cat(logits, 1), torch.cat(centres), torch.cat(strides)


def detector_outputs(model: RowDetector, image: Tensor) -> dict[str, Tensor]:
    """What the reference cases of such detectors hold, channels first.

    p3, p4, p5: what the head reads; raw1 to raw3: what it says of each level; predictions (B, 4 + K, N): centre and
    sides of the boxes in pixels, and scores.
    """
    maps = model.maps(image, model.sources)
    raw = [torch.cat(level, dim=-1).permute(0, 3, 1, 2) for level in model.head(maps)]
    boxes, scores = model.candidates(image)
    first, second = boxes.chunk(2, dim=-1)
    predictions = torch.cat([(first + second) / 2, second - first, scores], dim=-1).mT
    return {
        **{f"p{3 + index}": level.permute(0, 3, 1, 2) for index, level in enumerate(maps)},
        **{f"raw{1 + index}": level for index, level in enumerate(raw)},
        "predictions": predictions,
        "predictions_every8": predictions[..., ::8],
    }
