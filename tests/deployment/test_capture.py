"""Captured programs: which sizes are free is found out, not promised."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ommatid.deployment.capture import capture_widest, classifier_sides
from ommatid.models import create_model

CONVNEXT = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
RESNET = {"dims": [4, 4, 4, 4], "depths": [1, 1, 1, 1], "ibn": [None] * 4}
"""It averages the first 7 x 7 cells of its map, and all where there are fewer."""

VIT = {"image_size": 32, "patch_size": 16, "dim": 16, "depth": 1, "heads": 2}


@pytest.mark.parametrize(
    ("family", "config", "size", "multiple"),
    [("convnext", CONVNEXT, 64, 32), ("vit", VIT, 32, None), ("ibn_net", RESNET, 64, None)],
)
def test_sizes_are_free_where_the_steps_are_the_same_at_every_size(
    family: str, config: dict[str, Any], size: int, multiple: int | None
) -> None:
    model = create_model(family, num_classes=3, **config).eval()
    program, sides = capture_widest(model, torch.rand(2, 3, size, size), classifier_sides(model, size))
    assert (sides and sides.multiple) == (multiple and (multiple, multiple))
    shapes = [(1, 3, size, size)] + ([(3, 3, size + multiple, size + 2 * multiple)] if multiple else [])
    for shape in shapes:
        image = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(image), model(image), rtol=1e-4, atol=1e-5)
