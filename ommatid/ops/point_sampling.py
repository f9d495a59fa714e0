"""Reading a map between its positions."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def sample_points(features: Tensor, points: Tensor, *, beyond: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Bilinear samples of a map: (B, H, W, C) and points (B, N, P, 2) -> (B, N, P, C).

    Args:
        features: the map.
        points: as x, y, from 0 to 1 between the outer edges of its corner cells.
        beyond: what is outside: zeros, or the nearest value of the border.
    """
    channels_first = features.permute(0, 3, 1, 2)
    sampled = F.grid_sample(
        channels_first.float(), 2 * points.float() - 1, padding_mode=beyond, align_corners=False
    )  # fmt: skip
    return sampled.permute(0, 2, 3, 1)
