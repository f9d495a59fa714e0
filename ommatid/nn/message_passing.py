"""Message passing of SCNN: rows, then columns, hand on what they know to the next, both ways."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MessagePassing(nn.Module):
    """Four passes over a map, each slice adding a message of the one before: (B, H, W, C) -> (B, H, W, C).

    o_0 = s_0 and o_i = s_i + ReLU(K * o_(i-1)) with slices s top to bottom, bottom to top, left to right and right to
    left; K is a convolution along the slice, the same for all of a pass. "Spatial As Deep: Spatial CNN for Traffic
    Scene Understanding" (arXiv 1712.06080). Cost: 4 k H W C^2 multiply-adds, in H + W steps each way.

    Args:
        dim: C.
        kernel_size: k, odd.
    """

    def __init__(self, dim: int, kernel_size: int = 9) -> None:
        super().__init__()
        self.passes = nn.ModuleDict(
            {
                name: nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, bias=False)
                for name in ("up_down", "down_up", "left_right", "right_left")
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        for axis, forth, back in ((1, "up_down", "down_up"), (2, "left_right", "right_left")):
            slices = [part.transpose(1, 2) for part in x.unbind(axis)]
            slices = handed_on(self.passes[forth], slices)
            slices = handed_on(self.passes[back], slices[::-1])[::-1]
            x = torch.stack([part.transpose(1, 2) for part in slices], dim=axis)
        return x


def handed_on(conv: nn.Module, slices: list[Tensor]) -> list[Tensor]:
    """Slices (B, C, L) in the order of travel, each with the message of the one before it."""
    outputs = slices[:1]
    for part in slices[1:]:
        outputs.append(part + F.relu(conv(outputs[-1])))
    return outputs
