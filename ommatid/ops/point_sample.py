"""Reading masks at points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLED = 3
"""Times as many points are drawn as are used, for the uncertain ones among them."""

UNCERTAIN = 0.75
"""Share of the points that are the most uncertain ones; the others are anywhere."""


def point_sample(masks: Tensor, points: Tensor) -> Tensor:
    """Masks (n, h, w) read bilinearly at points (n, P, 2), (x, y) as shares of width and height: (n, P)."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(masks[:, None], grid.to(masks.dtype), align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(logits: Tensor, count: int) -> Tensor:
    """Random points (n, count, 2), most of them where masks (n, h, w) of logits are least sure of themselves.

    "PointRend: Image Segmentation as Rendering" (arXiv 1912.08193).
    """
    drawn = torch.rand(len(logits), OVERSAMPLED * count, 2, device=logits.device)
    doubt = -point_sample(logits, drawn).abs()
    chosen = doubt.topk(int(UNCERTAIN * count), dim=1).indices
    anywhere = torch.rand(len(logits), count - chosen.shape[1], 2, device=logits.device)
    return torch.cat([drawn.gather(1, chosen[..., None].expand(-1, -1, 2)), anywhere], dim=1)
