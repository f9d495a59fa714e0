"""Which pixels of two views of an image lie on one another, and losses that want those to look alike.

"Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning"
(arXiv 2011.10043).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.ops.rotary import grid_positions


def crop_box(crop: tuple[int, int, int, int], size: tuple[int, int], *, flipped: bool = False) -> Tensor:
    """Where a crop lies in its image, (x1, y1, x2, y2) from 0 to 1; of a flipped one, x2 < x1.

    Args:
        crop: its first row and column, its height and width, as torchvision's crops have them.
        size: height and width of the image.
        flipped: from left to right.
    """
    (top, left, height, width), (rows, columns) = crop, size
    first, last = left / (columns - 1), (left + width - 1) / (columns - 1)
    if flipped:
        first, last = last, first
    return torch.tensor([first, top / (rows - 1), last, (top + height - 1) / (rows - 1)])


def pixel_centres(box: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, 4), (x1, y1, x2, y2) -> centres (B, rows * columns, 2), x and y, and the diagonal of a pixel (B,)."""
    start, end = box.unflatten(1, (2, 2)).unbind(1)
    cell = (end - start) / torch.tensor([columns, rows], device=box.device)
    grid = grid_positions(rows, columns, device=box.device)
    return (grid.flip(-1) + 0.5) * cell[:, None] + start[:, None], torch.linalg.vector_norm(cell, dim=-1)


def matching_pixels(query: Tensor, key: Tensor, query_box: Tensor, key_box: Tensor, pos_ratio: float) -> Tensor:
    """Which pixels of two maps (B, H, W, C) lie on one another: booleans (B, H W, H' W').

    Their centres are less than `pos_ratio` of the larger pixel's diagonal apart. Boxes are (B, 4).
    """
    centres, diagonal = pixel_centres(query_box, query.shape[1], query.shape[2])
    others, other_diagonal = pixel_centres(key_box, key.shape[1], key.shape[2])
    distance = torch.linalg.vector_norm(centres[:, :, None] - others[:, None], dim=-1)
    return distance / torch.maximum(diagonal, other_diagonal)[:, None, None] < pos_ratio


def consistency_loss(query: Tensor, key: Tensor, query_box: Tensor, key_box: Tensor, pos_ratio: float = 0.7) -> Tensor:
    """Twice the mean cosine of matching pixels, negative: maps (B, H, W, C) of unit vectors, boxes (B, 4) -> ().

    An image without matching pixels counts as 0.
    """
    matching = matching_pixels(query, key, query_box, key_box, pos_ratio)
    cosine = query.flatten(1, 2) @ key.flatten(1, 2).mT
    return -2 * ((cosine * matching).sum((1, 2)) / (matching.sum((1, 2)) + 1e-6)).mean()


def contrast_loss(
    query: Tensor,
    key: Tensor,
    query_box: Tensor,
    key_box: Tensor,
    *,
    pos_ratio: float = 0.7,
    temperature: float = 0.3,
) -> Tensor:
    """PixContrast: matching pixels against all pixels of the other view; arguments as in `consistency_loss`, -> ().

    The mean is over the query's pixels that match any. It is 0 where none does.
    """
    matching = matching_pixels(query, key, query_box, key_box, pos_ratio)
    scores = query.flatten(1, 2) @ key.flatten(1, 2).mT / temperature
    positive = scores.masked_fill(~matching, -torch.inf)[matching.any(-1)].logsumexp(-1)
    losses = scores[matching.any(-1)].logsumexp(-1) - positive
    return losses.mean() if len(losses) else scores.sum() * 0
