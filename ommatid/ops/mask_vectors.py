"""Masks as short vectors: the first frequencies of a discrete cosine transform of what is in the box.

"SOLQ: Segmenting Objects by Learning Queries" (arXiv 2106.02351), "DCT-Mask" (arXiv 2011.09876).
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

SIDE = 128
"""Rows and columns of the mask in a box."""


def mask_vectors(masks: Tensor, length: int) -> Tensor:
    """(n, S, S) of 0 and 1 -> (n, length): the first coefficients, in zigzag order, of the orthonormal 2-D DCT-II.

    Raises:
        ValueError: there are fewer coefficients.
    """
    side = masks.shape[-1]
    if not 0 < length <= side * side:
        raise ValueError(f"length = {length} is not possible: allowed is 1 to {side * side}")
    waves = cosines(side).to(masks.device)
    return (waves @ masks.float() @ waves.T).flatten(1)[:, zigzag(side)[:length].to(masks.device)]


def masks_of(vectors: Tensor, side: int = SIDE) -> Tensor:
    """Undoes `mask_vectors` as well as the vectors know: (n, length) -> (n, side, side) booleans.

    What is in the mask is above the middle between the least and the largest value.
    """
    waves = cosines(side).to(vectors.device)
    order = zigzag(side)[: vectors.shape[1]].to(vectors.device)
    coefficients = torch.zeros(len(vectors), side * side, device=vectors.device)
    coefficients[:, order] = vectors.float()
    values = waves.T @ coefficients.view(-1, side, side) @ waves
    least, most = values.flatten(1).aminmax(dim=1)
    return values > ((least + most) / 2)[:, None, None]


def cropped(masks: Tensor, boxes: Tensor, side: int = SIDE) -> Tensor:
    """(n, H, W) booleans and boxes (n, 4), x1 y1 x2 y2 in pixels -> (n, side, side), what is in each box."""
    steps = (torch.arange(side, device=boxes.device) + 0.5) / side
    x, y = (boxes[:, start, None] + steps * (boxes[:, start + 2] - boxes[:, start])[:, None] for start in (0, 1))
    rows, columns = (
        place.floor().long().clamp(0, length - 1) for place, length in zip((y, x), masks.shape[1:], strict=True)
    )
    return masks[torch.arange(len(masks), device=boxes.device)[:, None, None], rows[:, :, None], columns[:, None]]


def pasted(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, side, side) booleans of what is in each box (n, 4) -> (n, H, W) booleans, nothing outside of the boxes."""
    side = masks.shape[-1]
    places, inside = [], []
    for start, length in ((1, size[0]), (0, size[1])):
        centres = torch.arange(length, device=boxes.device) + 0.5
        low, high = boxes[:, start, None], boxes[:, start + 2, None]
        share = (centres - low) / (high - low).clamp_min(1e-6)
        places.append((share * side).floor().long().clamp(0, side - 1))
        inside.append((share >= 0) & (share < 1))
    index = torch.arange(len(masks), device=boxes.device)[:, None, None]
    return masks[index, places[0][:, :, None], places[1][:, None]] & inside[0][:, :, None] & inside[1][:, None]


@cache
def cosines(side: int) -> Tensor:
    """(side, side): the orthonormal DCT-II, a frequency in each row."""
    places = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi / side * (places + 0.5) * places[:, None]) * math.sqrt(2 / side)
    waves[0] = math.sqrt(1 / side)
    return waves.float()


@cache
def zigzag(side: int) -> Tensor:
    """(side^2,): flat numbers of a square's cells, diagonal by diagonal, there and back: 0, 1, side, 2 side, ..."""
    cells = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    diagonal = cells.sum(1)
    along = torch.where(diagonal % 2 == 1, cells[:, 0], cells[:, 1])
    return (diagonal * side + along).argsort()
