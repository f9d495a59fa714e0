"""FCOS: every cell of a pyramid says which class its place is of, and how far the edges of that thing are.

"FCOS: Fully Convolutional One-Stage Object Detection" (arXiv 1904.01355), with the centre sampling, the GIoU loss and
the centerness of its later version (arXiv 2006.09214). Any backbone; a cell's thing is found without anchors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_area, generalized_box_iou_loss, sigmoid_focal_loss

from ommatid.models.config import require, require_positive
from ommatid.models.decoders.encoder import Encoder, EncoderConfig
from ommatid.models.decoders.one_stage import boxes_at, edges_from
from ommatid.models.dense import Detector, Targets
from ommatid.models.registry import register
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.norm import GroupNorm
from ommatid.nn.top_down import TopDown

PRIOR = 0.01
"""Every class's probability at the start: with most cells on no thing, training would begin with a shock otherwise."""


@dataclass(frozen=True, kw_only=True)
class FCOSConfig(EncoderConfig):
    """`decoder_dim` is the width of the pyramid and the heads, `head_depth` the convolutions of each head.

    `strides` are those of the levels; things larger than `reach` strides of a level are for the next. `centre`: a
    place is a thing's within so many strides of its middle. `overlap`: IoU from which on the less sure of two boxes of
    a class is removed.
    """

    decoder_dim: int = 128
    head_depth: int = 2
    strides: tuple[int, ...] = (8, 16, 32)
    reach: float = 8.0
    centre: float = 1.5
    overlap: float = 0.6

    def check(self) -> None:
        super().check()
        require_positive(decoder_dim=self.decoder_dim, reach=self.reach, centre=self.centre, strides=self.strides)
        require(self.head_depth >= 0, "head_depth", self.head_depth, "0 or more")
        require(self.decoder_dim % 16 == 0, "decoder_dim", self.decoder_dim, "a multiple of 16")
        powers = all(stride == 2 ** round(math.log2(stride)) for stride in self.strides)
        rising = self.strides == tuple(sorted(set(self.strides)))
        require(bool(self.strides) and powers and rising, "strides", self.strides, "rising powers of two")
        require(0 < self.overlap <= 1, "overlap", self.overlap, "above 0, up to 1")


class Head(nn.Module):
    """Convolutions that all levels share: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(ConvNorm(dim, dim, 3, norm=GroupNorm(dim // 8, dim), act=nn.ReLU()) for _ in range(depth))
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


@register("fcos", FCOSConfig)
class FCOS(Detector):
    """A backbone, the way down its pyramid, and two heads: what is at a place, and where its edges are."""

    config: FCOSConfig

    def __init__(self, config: FCOSConfig) -> None:
        super().__init__(config)
        self.num_classes, self.overlap = config.num_classes, config.overlap
        self.encoder = Encoder(config, config.strides)
        self.no_decay = self.encoder.backbone.no_decay
        dim = config.decoder_dim
        self.top_down = TopDown(self.encoder.channels, dim)
        self.what = Head(dim, config.head_depth)
        self.where = Head(dim, config.head_depth)
        self.classes = Conv2d(dim, config.num_classes, 3, padding=1)
        self.edges = Conv2d(dim, 4, 3, padding=1)
        self.centerness = Conv2d(dim, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(config.strides)))
        for layer in (self.classes, self.edges, self.centerness):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log(1 / PRIOR - 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> class_logits (B, N, num_classes), edges (B, N, 4) and centerness (B, N).

        N places, level by level and row by row; edges are the distances in pixels to the left, top, right and bottom.
        """
        levels = self.top_down(self.encoder(image))
        found = [self._level(level, index) for index, level in enumerate(levels)]
        logits, edges, centerness = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return {"class_logits": logits, "edges": edges, "centerness": centerness[..., 0]}

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Focal loss of the classes, GIoU of the boxes, cross-entropy of the centerness; as the paper weighs them."""
        answer = self(image)
        places, strides = self._places(image)
        assigned = [self._assigned(places, strides, target) for target in targets]
        labels, wanted = torch.stack([label for label, _ in assigned]), torch.stack([edges for _, edges in assigned])
        on_thing = labels < self.num_classes
        count = on_thing.sum().clamp_min(1)
        logits = answer["class_logits"].float()
        truth = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        classes = sigmoid_focal_loss(logits, truth, reduction="sum") / count
        middle = centre_share(wanted[on_thing])
        origin = places.expand(len(targets), -1, -1)[on_thing]
        ours, theirs = (boxes_at(origin, edges[on_thing].float()) for edges in (answer["edges"], wanted))
        boxes = (generalized_box_iou_loss(ours, theirs) * middle).sum() / middle.sum().clamp_min(1e-6)
        centred = F.binary_cross_entropy_with_logits(answer["centerness"][on_thing].float(), middle, reduction="sum")
        return {"classes": classes, "boxes": boxes, "centerness": centred / count}

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As the contract says; a score is the root of class probability times centerness."""
        answer = self(image)
        places, _ = self._places(image)
        scores = (answer["class_logits"].float().sigmoid() * answer["centerness"].float().sigmoid()[..., None]).sqrt()
        return boxes_at(places, answer["edges"].float()), scores

    def _level(self, level: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        what, where = self.what(level), self.where(level)
        edges = F.softplus(self.edges(where) * self.scales[index]) * self.config.strides[index]
        return self.classes(what).flatten(1, 2), edges.flatten(1, 2), self.centerness(where).flatten(1, 2)

    def _places(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Middles of all cells (N, 2) as x, y in pixels, and the strides of their levels (N,)."""
        height, width = self.encoder.padded_size(image.shape[2], image.shape[3])
        places, strides = [], []
        for stride in self.config.strides:
            rows, columns = (
                (torch.arange(-(-side // stride), device=image.device) + 0.5) * stride for side in (height, width)
            )
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], -1).flatten(0, 1)
            places.append(grid)
            strides.append(torch.full_like(grid[:, 0], stride))
        return torch.cat(places), torch.cat(strides)

    def _assigned(self, places: Tensor, strides: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The class of each place (N,), `num_classes` for none, and its distances to the edges (N, 4).

        A place is a thing's near its middle, on the level for the thing's size; of several, the smallest one's.
        """
        boxes = target["boxes"]
        if not len(boxes):
            none = torch.full((len(places),), self.num_classes, device=places.device)
            return none, places.new_zeros(len(places), 4)
        edges = edges_from(places, boxes)
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        near = (places[:, None] - middles).abs().amax(-1) <= self.config.centre * strides[:, None]
        largest = edges.amax(-1)
        least = torch.where(strides == self.config.strides[0], 0.0, strides * self.config.reach / 2)[:, None]
        most = torch.where(strides == self.config.strides[-1], math.inf, strides * self.config.reach)[:, None]
        mine = near & (edges.amin(-1) > 0) & (largest >= least) & (largest < most)
        areas = torch.where(mine, box_area(boxes), math.inf)
        smallest, thing = areas.min(1)
        labels = torch.where(smallest.isinf(), self.num_classes, target["labels"][thing])
        return labels, edges[torch.arange(len(places), device=places.device), thing]


def centre_share(edges: Tensor) -> Tensor:
    """(..., 4) -> (...): 1 in the middle of a thing, 0 at its edges."""
    nearer = torch.minimum(edges[..., :2], edges[..., 2:]).clamp_min(0)
    farther = torch.maximum(edges[..., :2], edges[..., 2:]).clamp_min(1e-6)
    return (nearer / farther).prod(-1).sqrt()
