"""The Haar wavelet transform of maps: orthonormal, without parameters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.refusal import require_map


def haar(features: Tensor) -> tuple[Tensor, Tensor]:
    """One level: averages and differences of every 2x2 square.

    Cost: 2 H W C additions.

    Args:
        features: (B, H, W, C), both sides even.

    Returns:
        low: (B, H/2, W/2, C), the half sum of each square.
        details: (B, H/2, W/2, C, 3), half the differences between rows (upper - lower), between columns
            (left - right), and between diagonals.

    Raises:
        ValueError: a side is odd.
    """
    even = all(side % 2 == 0 for side in features.shape[1:3])
    require_map(even, features, "an even number of rows and columns")
    upper, lower = (features / 2).unflatten(1, (-1, 2)).unbind(2)
    rows_sum, rows_difference = upper + lower, upper - lower
    (left, right), (left_difference, right_difference) = (
        half.unflatten(2, (-1, 2)).unbind(3) for half in (rows_sum, rows_difference)
    )
    details = (left_difference + right_difference, left - right, left_difference - right_difference)
    return left + right, torch.stack(details, dim=-1)


def haar_reference(features: Tensor) -> tuple[Tensor, Tensor]:
    """The same as a convolution with the four filters of 2x2."""
    filters = torch.tensor(
        [[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]],
        dtype=features.dtype,
        device=features.device,
    )
    channels = features.shape[-1]
    kernels = (filters / 2).repeat(channels, 1, 1).unsqueeze(1)
    bands = F.conv2d(features.permute(0, 3, 1, 2), kernels, stride=2, groups=channels)
    low, details = bands.permute(0, 2, 3, 1).unflatten(-1, (channels, 4)).split([1, 3], dim=-1)
    return low.squeeze(-1), details
