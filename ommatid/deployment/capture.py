"""The graph of a model, free of Python, with the axes that may vary: what every file and many forms are made from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from ommatid.deployment.export import exported_error
from ommatid.models.backbone import Backbone
from ommatid.models.restorer import Restorer, Sides
from ommatid.nn.deploy import deployed_copy

FURTHER = (1, 4)
"""Cells of the coarsest map by which the sizes are taller, and twice as many wider, that free sides are tried at."""


def free_axes(sides: Sides | None) -> dict[int, Any]:
    """What torch.export is told about an image's axes: the batch is free, and so are these sides, where given."""
    free: dict[int, Any] = {0: Dim("batch", min=1)}
    if sides is not None:
        for axis, name in enumerate(("rows", "columns")):
            least, most = sides.counts(axis)
            count = Dim(name, min=least, max=most)
            free[2 + axis] = sides.multiple[axis] * count if sides.multiple[axis] > 1 else count
    return free


def capture(model: nn.Module, example: Tensor, sides: Sides | None = None) -> ExportedProgram:
    """The deployed model as a program that takes any number of images, of these sides.

    Args:
        model: any that takes one tensor of images.
        example: (B, C, H, W), of at least two images, because a single one is taken for a constant.
        sides: heights and widths that the program serves; those of `example` where None.
    """
    return torch.export.export(deployed_copy(model), (example,), dynamic_shapes=(free_axes(sides),))


def capture_widest(model: nn.Module, example: Tensor, sides: Sides | None) -> tuple[ExportedProgram, Sides | None]:
    """The program that serves the most sizes, and which these are: None for those of `example` alone.

    Whether a network other than one for restoration takes the same steps at every size is written nowhere but in the
    steps themselves: a program with free sides is tried at another size, and where the size is part of the architecture
    (a table of positions, windows that follow from the size), one without is the answer.
    """
    if not isinstance(model, Restorer) and sides is not None:
        try:
            program = capture(model, example, sides)
            rows, columns = sides.multiple
            further = [(0, 2 * cells * columns, 0, cells * rows) for cells in FURTHER]
            exported_error(model, program.module(), [F.pad(example, margins) for margins in further])
            return program, sides
        except Exception:  # what is raised for a size that is part of the program has no common type
            return capture(model, example), None
    return capture(model, example, sides), sides


def classifier_sides(model: nn.Module, size: int) -> Sides | None:
    """The sides that a classifier trained at `size` might be free to have: whole cells of its coarsest map.

    None where it is trained at less than two cells, or at parts of one.
    """
    if not isinstance(model, Backbone):
        return None
    sides = Sides((model.strides[-1],) * 2)
    return sides if sides.nearest(size, size) == (size, size) else None
