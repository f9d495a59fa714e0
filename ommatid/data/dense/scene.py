"""What every source of annotated pictures answers with: scenes, their classes, and what was passed over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ommatid.data.errors import Skipped
from ommatid.data.record import Record

Wanted = Literal["masks", "boxes", "outlines", "segments"]
"""A class for every pixel; boxes of things; the boxes with a mask of each thing; or the segment of every pixel."""

IGNORED = 255
"""In a mask, as tensors have it: a pixel that is neither trained on nor judged."""

MOST_CLASSES = 255

BACKGROUND = "background"
"""Class 0 where masks or segments are painted from outlines: all that is no thing."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels; right and bottom are where the next pixel begins."""

Outline = list[list[float]] | dict[str, Any] | np.ndarray
"""Polygons of x1, y1, x2, y2, ...; COCO's run lengths with `size` and `counts`; or (H, W) bool."""


@dataclass(frozen=True)
class Thing:
    """One annotated thing: `label` indexes the classes. crowd: many of a class at once, never a mistake to find."""

    box: Box
    label: int
    outline: Outline | None = None
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class Segment:
    """A part of a picture that is one thing, or all there is of one kind of stuff; `id`: its number in the file."""

    id: int
    label: int
    crowd: bool = False


@dataclass(frozen=True)
class Scene:
    """A picture with what is known of it.

    size: width and height that the annotations are made for, where they say so. mask: a class for every pixel, in a
    file or as (H, W) uint8; or its segment, one of `segments`, in a file of ids or as (H, W) int32, numbers from 1.
    things: boxes, and outlines where there are any.
    """

    record: Record
    size: tuple[int, int] | None = None
    mask: Path | np.ndarray | None = None
    things: tuple[Thing, ...] | None = None
    segments: tuple[Segment, ...] | None = None

    @property
    def name(self) -> str:
        return self.record.name


@dataclass(frozen=True)
class SceneListing:
    """Annotated pictures before any is read.

    classes: None where masks alone say which there are. stuff: those of them whose segments are not counted. colours:
    those that stand for the classes in masks of colours.
    """

    scenes: list[Scene]
    classes: tuple[str, ...] | None
    skipped: list[Skipped] = field(default_factory=list)
    colours: tuple[tuple[int, int, int], ...] | None = None
    stuff: tuple[str, ...] = ()
