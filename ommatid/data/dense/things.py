"""Things as their annotations have them, and what is left of them in the picture."""

from __future__ import annotations

from dataclasses import replace

from ommatid.data.dense.masks import outline_mask
from ommatid.data.dense.scene import Scene, Thing
from ommatid.data.errors import Skipped, UnreadableImageError


def tidied(scene: Scene, size: tuple[int, int], skipped: list[Skipped]) -> tuple[Thing, ...]:
    """Boxes cut off at the picture's edges, without empty ones; what is left out is added to `skipped`, by number."""
    kept = []
    for number, thing in enumerate(scene.things or (), start=1):
        within = _within(thing, size)
        if isinstance(within, Thing):
            kept.append(within)
        else:
            skipped.append(Skipped(f"{scene.name}, thing {number}", within))
    return tuple(kept)


def _within(thing: Thing, size: tuple[int, int]) -> Thing | str:
    """The thing cut off at the picture's edges, or why it is none."""
    width, height = size
    left, top, right, bottom = thing.box
    if right <= left or bottom <= top:
        return f"an empty box, {right - left:g} x {bottom - top:g} pixels"
    box = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if box[2] <= box[0] or box[3] <= box[1]:
        return f"a box outside of the picture, from ({left:g}, {top:g}) to ({right:g}, {bottom:g})"
    if thing.outline is not None:
        try:
            if not outline_mask(thing.outline, height, width).any():
                return "an outline without a pixel"
        except (UnreadableImageError, ValueError) as error:
            return f"a bad outline: {error}"
    return replace(thing, box=box)
