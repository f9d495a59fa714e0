"""A scene for detectors: squares of their own brightness, a class each."""

from __future__ import annotations

import torch


def scene() -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Two images of odd sides: two squares of their own brightness in one, nothing in the other."""
    torch.manual_seed(0)
    image = 0.1 * torch.rand(2, 3, 69, 85)
    boxes = torch.tensor([[8.0, 10.0, 36.0, 44.0], [46.0, 24.0, 80.0, 62.0]])
    masks = torch.zeros(2, 69, 85, dtype=torch.bool)
    for index, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
        image[0, index, y1:y2, x1:x2] = 1.0
        masks[index, y1:y2, x1:x2] = True
    return image, [
        {"boxes": boxes, "labels": torch.tensor([2, 0]), "masks": masks},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": masks[:0]},
    ]
