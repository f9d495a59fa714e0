"""Dense models with plain tensors for answers, as files of other programs have them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from ommatid.models.decoders.encoder import Encoder, coarsest_stride
from ommatid.models.dense import DenseModel, Detector, MaskTransformer
from ommatid.models.restorer import Sides
from ommatid.runs.trained import SEGMENTATION
from ommatid.tasks.whole_or_window import logits_of

VIEWS = {"whole": "made to fit into sides", "window": "a window of such sides that slides over it"}
"""How a description says what is done with pictures."""


class DenseForm(nn.Module):
    """A dense model behind one of the interfaces below, which say in `outputs` what their answers are called."""

    outputs: ClassVar[dict[str, dict[str, Any]]]

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model


class PixelLogits(DenseForm):
    """(B, 3, H, W) -> logits (B, num_classes, H, W)."""

    outputs: ClassVar[dict[str, dict[str, Any]]] = {
        "answer": {"shape": ["batch", "classes", "height", "width"], "type": "float32, logits"}
    }

    def forward(self, image: Tensor) -> Tensor:
        return logits_of(self.model, image)


class Boxes(DenseForm):
    """(B, 3, H, W) -> all boxes (B, N, 4) and their scores (B, N, num_classes); overlapping ones are in them still."""

    outputs: ClassVar[dict[str, dict[str, Any]]] = {
        "boxes": {"shape": ["batch", "boxes", 4], "type": "float32, left, top, right, bottom in pixels of the image"},
        "scores": {
            "shape": ["batch", "boxes", "classes"],
            "type": "float32, 0 to 1; of overlapping boxes of a class the best is to be kept (non-maximum suppression)",
        },
    }

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.model, Detector)
        return self.model.candidates(image)


class Masks(DenseForm):
    """(B, 3, H, W) -> scores (B, Q, num_classes) of the queries, and logits of their masks (B, Q, H, W)."""

    outputs: ClassVar[dict[str, dict[str, Any]]] = {
        "scores": {"shape": ["batch", "masks", "classes"], "type": "float32, 0 to 1; one minus their sum: no thing"},
        "masks": {"shape": ["batch", "masks", "height", "width"], "type": "float32, above 0 where the thing is"},
    }

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.model, MaskTransformer)
        classes, masks = self.model.whole(image)
        return classes.softmax(-1)[..., :-1], masks


def form_of(model: DenseModel, task: str) -> DenseForm:
    """The interface of a model that was trained for this task."""
    if not isinstance(model, Detector) or task == SEGMENTATION:
        return PixelLogits(model)
    return Masks(model) if isinstance(model, MaskTransformer) else Boxes(model)


def dense_sides(model: DenseModel, trained: tuple[int, int]) -> Sides | None:
    """The sides that a model might be free to have without being padded; None where they are fixed or unknown.

    trained: those of its training. A file that had to see such images larger than the model does answers otherwise:
    then None too.
    """
    backbone = model.backbone
    if backbone is None or backbone.image_sizes.fixed is not None:
        return None
    encoder = model.encoder
    assert isinstance(encoder, Encoder)
    multiple = math.lcm(backbone.image_sizes.multiple, coarsest_stride(backbone))
    # A map of one row would be taken for one of always one row.
    sides = Sides((multiple, multiple), max(backbone.image_sizes.smallest, 2 * max(encoder.strides)))
    return sides if sides.nearest(*trained) == encoder.padded_size(*trained) else None
