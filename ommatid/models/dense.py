"""The contracts of dense models: an image in; a class for every pixel, masks, or boxes out.

All take float images (B, in_channels, H, W) of any height and width. What their backbone needs more (whole strides, a
size fixed by a table) is padded with zeros at the bottom and right, and cropped away again. A backbone that takes one
size only is refused larger images, by a ValueError that says which size it takes.

Targets of detection and of mask transformers are one dictionary for each image of the batch:

    boxes   (n, 4) float, x1 y1 x2 y2 in pixels of the image, x2 > x1 and y2 > y1; n may be 0
    labels  (n,) integers from 0 to num_classes - 1
    masks   (n, H, W) bool; mask transformers need them, detectors of boxes do not read them

Detections are one dictionary for each image as well, best first:

    boxes   (n, 4) as above, inside the image
    scores  (n,) from 0 to 1
    labels  (n,)
    masks   (n, H, W) bool, of models that make masks only
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ommatid.models.backbone import Backbone
from ommatid.models.model import Model
from ommatid.ops.best_boxes import best_boxes

Targets = list[dict[str, Tensor]]
Detections = list[dict[str, Tensor]]


class DenseModel(Model):
    """Base of the contracts below.

    Attributes:
        num_classes: kinds of pixels, or of things; there is no label for "nothing".
    """

    num_classes: int

    @property
    def backbone(self) -> Backbone | None:
        """What makes the maps: weights of a classifier fit into it. None where the network is one whole."""
        encoder = getattr(self, "encoder", None)
        return None if encoder is None else encoder.backbone

    def freeze_backbone(self) -> None:
        """From now on training changes nothing in the backbone: neither its parameters nor its running statistics.

        Raises:
            ValueError: the network has no backbone of its own.
        """
        encoder = getattr(self, "encoder", None)
        if encoder is None:
            raise ValueError(f"{type(self).__name__} has no backbone to freeze: it is trained as a whole")
        encoder.freeze()


class Segmenter(DenseModel):
    """A class for every pixel. The loss is the task's, unless a class below says otherwise: the answer is logits."""

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, num_classes, H, W)."""
        raise NotImplementedError


class MaskSegmenter(Segmenter):
    """A segmenter that makes a mask of each class, and learns by losses of its own."""

    def losses(self, image: Tensor, label: Tensor, *, ignored: int = 255) -> dict[str, Tensor]:
        """The terms of the training loss by name, weighted already: their sum is what training lowers.

        label (B, H, W): a class for every pixel, `ignored` for none.
        """
        raise NotImplementedError


class Detector(DenseModel):
    """Boxes of things, with a class and a score each. Its losses are its own.

    Attributes:
        overlap: IoU above which the less sure of two boxes of a class is left out; None for networks that find each
            thing once.
        levels: the stride of each map that boxes are read off, and the boxes of each of its cells, where the best of
            each map are chosen by themselves; empty where they are chosen from all together.
    """

    overlap: float | None = None
    levels: tuple[tuple[int, int], ...] = ()

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Sides of an image as the network sees it; for those with `levels`."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(B, in_channels, H, W) -> the raw outputs by name, of each level where there are several."""
        raise NotImplementedError

    def losses(self, image: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The terms of the training loss by name, weighted already: their sum is what training lowers."""
        raise NotImplementedError

    def candidates(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> boxes (B, N, 4), not cut to the image, and scores (B, N, num_classes), 0 to 1.

        All that `detect` chooses from: nothing is left out, whatever its score and whatever it overlaps.
        """
        raise NotImplementedError

    @torch.no_grad()
    def detect(self, image: Tensor, *, score_threshold: float = 0.05, most: int = 100) -> Detections:
        """What is seen in each image: at most `most` boxes, of scores from `score_threshold` on, best first."""
        boxes, scores = self.candidates(image)
        size, counts = (image.shape[2], image.shape[3]), [boxes.shape[1]]
        if self.levels:
            rows, columns = self.padded_size(*size)
            counts = [each * -(-rows // stride) * -(-columns // stride) for stride, each in self.levels]
        rules: Any = {"score_threshold": score_threshold, "overlap": self.overlap, "most": most}
        pairs = zip(scores, boxes, strict=True)
        return [best_boxes(score.split(counts), box.split(counts), size, **rules) for score, box in pairs]


class MaskTransformer(Detector):
    """Queries that each stand for one mask with one class: semantic, instance and panoptic answers of one model.

    `forward` gives at least

        class_logits  (B, Q, num_classes + 1), the last for "no object"
        mask_logits   (B, Q, h, w), at the resolution that the decoder works at; they cover the padded image
    """

    def whole(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> the last class logits (B, Q, num_classes + 1), and mask logits (B, Q, H, W)."""
        raise NotImplementedError

    def semantic(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, num_classes, H, W): how much of each class every pixel is, 0 or more."""
        raise NotImplementedError

    def panoptic(
        self, image: Tensor, *, things: tuple[int, ...] | None = None, score_threshold: float = 0.8
    ) -> list[dict[str, Tensor]]:
        """Every pixel's segment, as one dictionary for each image.

        segments (H, W): integers from 1, 0 for none; labels (n,) and scores (n,) of segments 1 to n.

        Args:
            things: the classes whose instances are kept apart, the others' masks are joined; all where None.
            score_threshold: queries below it make no segment.
        """
        raise NotImplementedError
