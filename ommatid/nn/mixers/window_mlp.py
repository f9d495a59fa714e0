"""Window MLP: tokens of one window are mixed by a learned matrix instead of by attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.windows import pad_to_multiple


class WindowMLP(nn.Module):
    """A linear layer across the tokens of each (shifted) window, one per head: (B, H, W, C) -> (B, H, W, C).

    Swin MLP, the variant without attention in the code of Swin Transformer (arXiv 2103.14030). Windows shift by
    zeros put around the map, not by a cyclic roll: at the border zeros are mixed like any token. Maps that are no
    multiple of the window are zero-padded at the bottom and right. Cost: M^2 H W C multiply-adds for windows of M x M.

    Args:
        dim: C.
        heads: number of groups of channels with a matrix of their own; divides C.
        window_size: M.
        shift: of the windows against the map's corner, in tokens; the first window holds `shift` rows of the map.
    """

    def __init__(self, dim: int, heads: int, window_size: int, *, shift: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.window = (window_size, window_size)
        self.margin = window_size - shift if shift else 0
        tokens = window_size**2
        self.weight = nn.Parameter(torch.empty(heads, tokens, tokens))
        self.bias = nn.Parameter(torch.zeros(heads, tokens))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        margin, (rows, columns) = self.margin, self.window
        padded = pad_to_multiple(F.pad(x, (0, 0, margin, 0, margin, 0)) if margin else x, self.window)
        windows = padded.unflatten(3, (self.heads, -1)).unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
        # A token of a window is a row and a column, which stay two axes: the map is never cut into windows.
        weight = self.weight.view(-1, *self.window, *self.window)
        bias = self.bias.view(-1, *self.window).permute(1, 2, 0)
        mixed = torch.einsum("hrcij,byixjhd->byrxchd", weight, windows)
        biased = mixed + bias[:, None, :, :, None]
        return biased.reshape(padded.shape)[:, margin : margin + height, margin : margin + width]
