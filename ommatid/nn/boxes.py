"""Boxes that tokens look at: (..., 4) as x1, y1, x2, y2, from 0 to 1 of the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spread_boxes(count: int) -> Tensor:
    """(count, 4): boxes of half the image's sides on a square grid, x first; what is left over covers all of it."""
    side = math.isqrt(count)
    corner = 0.5 * torch.arange(side) / max(side - 1, 1)
    corners = torch.cartesian_prod(corner, corner).view(-1, 2)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(count - side * side, 4)
    return torch.cat([torch.cat([corners, corners + 0.5], dim=-1), whole])


def centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) -> (..., 2) each, as x, y; sides are negative where corners have changed places."""
    first, second = boxes.chunk(2, dim=-1)
    return (first + second) / 2, second - first


def moved_boxes(boxes: Tensor, adjustment: Tensor) -> Tensor:
    """Boxes moved by adjustment[..., :2] of their sides, then scaled by exp(adjustment[..., 2:]): (..., 4)."""
    (center, sides), (step, growth) = centers_and_sides(boxes), adjustment.chunk(2, dim=-1)
    center = center + step * sides.abs()
    half = sides.abs() * growth.exp() / 2
    return torch.cat([center - half, center + half], dim=-1)


def standardised_points(points: Tensor) -> Tensor:
    """Points (..., P, 2) around 0, with a standard deviation of a third in x and in y."""
    spread = points.std(-2, keepdim=True) + 1e-5
    return (points - points.mean(-2, keepdim=True)) / (3 * spread)


def box_encoding(boxes: Tensor, frequencies: int, highest: float = 128.0) -> Tensor:
    """(..., 4) -> (..., 4 n): for each coordinate, sines of every even and then cosines of every odd frequency.

    The n frequencies rise from half a turn over the image to `highest` times that, in equal factors.
    """
    steps = torch.arange(frequencies, device=boxes.device) / (frequencies - 1)
    angles = math.pi * boxes.float()[..., None] * torch.exp(math.log(highest) * steps)
    return torch.cat([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)
