"""Sliding windows that reach over the border of a map, where they find zeros: scores and sums of attention in them.

Source: "TiC: Exploring Vision Transformer in Convolution" (arXiv 2310.04134). What lies outside is not masked: its
score is 0 and takes part in a softmax, as the zeros around a convolution take part in its sum.

Both functions go through the window's positions, not through the map's, and read shifted views of one padded map:
no window is ever copied, neither now nor for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def window_scores(query: Tensor, key: Tensor, *, kernel_size: tuple[int, int], dilation: int = 1) -> Tensor:
    """The product of every query with the keys in the window around it.

    Args:
        query, key: (B, H, W, C).
        kernel_size: rows and columns (K, L) of a window.
        dilation: distance between a window's positions; dilation * (side - 1) is even, so that windows have a centre.

    Returns:
        (B, H, W, K L), the window's positions row by row.

    Raises:
        ValueError: the windows have no centre.
    """
    products = [(query * shifted).sum(-1) for shifted in _shifted(key, kernel_size, dilation)]
    return torch.stack(products, dim=-1)


def window_sums(weights: Tensor, value: Tensor, *, kernel_size: tuple[int, int], dilation: int = 1) -> Tensor:
    """The weighted sum of the values in the window around every position; arguments as in `window_scores`.

    Args:
        weights: (B, H, W, K L).
        value: (B, H, W, C).

    Returns:
        (B, H, W, C).
    """
    first, *others = zip(weights.split(1, dim=-1), _shifted(value, kernel_size, dilation), strict=True)
    total = first[0] * first[1]
    for weight, shifted in others:
        total = torch.addcmul(total, weight, shifted)
    return total


def window_padding(kernel_size: tuple[int, int], dilation: int) -> tuple[int, int]:
    """How many rows and columns a window reaches from its centre."""
    spans = [dilation * (side - 1) for side in kernel_size]
    if dilation < 1 or min(kernel_size) < 1 or any(span % 2 for span in spans):
        allowed = "odd sides, or dilation * (side - 1) even"
        raise ValueError(f"kernel_size = {kernel_size} with dilation {dilation} is not possible: allowed is {allowed}")
    return spans[0] // 2, spans[1] // 2


def _shifted(features: Tensor, kernel_size: tuple[int, int], dilation: int) -> Iterator[Tensor]:
    """(B, H, W, C) -> a view of the zero-padded map for each position of a window, row by row."""
    (rows, columns), (height, width) = window_padding(kernel_size, dilation), features.shape[1:3]
    padded = F.pad(features, (0, 0, columns, columns, rows, rows))
    for row in range(0, 2 * rows + 1, dilation):
        for column in range(0, 2 * columns + 1, dilation):
            yield padded[:, row : row + height, column : column + width]
