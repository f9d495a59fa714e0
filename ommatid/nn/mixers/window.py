"""Window attention: tokens look only at tokens of their own window, which may be shifted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import RelativePositionBias
from ommatid.ops.attention import attend
from ommatid.ops.slices import in_slices
from ommatid.ops.windows import merge, pad_to_multiple, partition, shift_regions

# Added to the scores of pairs that were no neighbours before the shift; the reference's constant.
MASKED = -100.0


class WindowAttention(nn.Module):
    """Self-attention inside (shifted) windows with a relative position bias: (B, H, W, C) -> (B, H, W, C).

    Swin Transformer (arXiv 2103.14030). Maps that are no multiple of the window are zero-padded at the bottom and
    right, as in the authors' dense prediction code. Cost: 4 H W C^2 + 2 M^2 H W C multiply-adds for windows of M x M.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window_size: M.
        shift: of the windows against the map's corner, in tokens.
        qkv_bias: bias of the joint query, key and value projection.
        qkv: another such projection, C -> 3 C, ordered (3, heads, C / heads).
        similarity: what queries and keys, (B, N, heads, d), go through before their scaled products are the scores.
        bias: what gives the position bias, (heads, M^2, M^2); a table where None.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        *,
        shift: int = 0,
        qkv_bias: bool = True,
        qkv: nn.Module | None = None,
        similarity: nn.Module | None = None,
        bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = (window_size, window_size)
        self.shift = shift
        self.qkv = qkv or nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.similarity = similarity
        self.bias = bias or RelativePositionBias(self.window, heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        padded = pad_to_multiple(x, self.window)
        bias = self.window_bias((padded.shape[1], padded.shape[2]))
        return in_slices(lambda images: self.attend_windows(images, bias), padded)[:, :height, :width]

    def attend_windows(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, H, W, C) -> the same, H and W being multiples of the window; bias fits (windows, heads, N, N)."""
        shifted = x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x
        windows = partition(shifted, self.window)
        query, key, value = self.qkv(windows.flatten(0, 1)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.similarity is not None:
            query, key = self.similarity(query, key)
        if self.shift:
            bias = bias.expand(len(x), -1, -1, -1, -1).flatten(0, 1)
        attended = self.proj(attend(query, key, value, bias=bias)).view(windows.shape)
        mixed = merge(attended, self.window, (x.shape[1], x.shape[2]))
        return mixed.roll((self.shift, self.shift), (1, 2)) if self.shift else mixed

    def window_bias(self, size: tuple[int, int]) -> Tensor:
        """What is added to the scores on a map of this size: (heads, N, N), or (windows, heads, N, N) with a shift."""
        bias = self.bias()
        return bias + self.shift_mask(size, bias) if self.shift else bias

    def shift_mask(self, size: tuple[int, int], like: Tensor) -> Tensor:
        """(windows, 1, N, N): 0 for pairs that may meet, MASKED for the others."""
        regions = shift_regions(size, self.window, (self.shift, self.shift)).to(like.device)
        foreign = regions[:, None, :, None] != regions[:, None, None, :]
        return torch.zeros_like(foreign, dtype=like.dtype).masked_fill_(foreign, MASKED)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
