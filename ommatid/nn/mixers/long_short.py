"""Long and short distance attention: groups of neighbours, or of tokens that lie a fixed interval apart."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend
from ommatid.ops.windows import center_crop, center_pad_to_multiple, merge, pad_to_multiple, partition

# Added to the scores of padded keys: its exponential is 0, and it is a number in float16 too.
MASKED = -1e4


class LongShortAttention(nn.Module):
    """Attention inside groups of G x G tokens, an interval apart: (B, H, W, C) -> (B, H, W, C).

    CrossFormer (arXiv 2108.00154): an interval of 1 is its short distance attention, a longer one its long distance
    attention. Maps that are no multiple of group times interval are zero-padded, and the padding is masked.
    Cost: 4 H W C^2 + 2 G^2 H W C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        group_size: G.
        bias: a module that gives what is added to the scaled scores, (heads, G^2, G^2).
        interval: between neighbours of a group.
        centered: pads on all four sides, not only at the bottom and right.
        qkv_bias: bias of the joint query, key and value projection.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        group_size: int,
        bias: nn.Module,
        *,
        interval: int = 1,
        centered: bool = False,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.group = (group_size, group_size)
        self.interval = interval
        self.centered = centered
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.bias = bias
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        padded = self.pad(x)
        size = (padded.shape[1], padded.shape[2])
        groups = partition(padded, self.group, self.interval).flatten(0, 1)
        query, key, value = self.qkv(groups).unflatten(-1, (3, self.heads, -1)).unbind(2)
        bias = self.bias()
        if size != (height, width):
            bias = (bias + self.padding_mask(x)).expand(batch, -1, -1, -1, -1).flatten(0, 1)
        mixed = self.proj(attend(query, key, value, bias=bias)).unflatten(0, (batch, -1))
        merged = merge(mixed, self.group, size, self.interval)
        return center_crop(merged, (height, width)) if self.centered else merged[:, :height, :width]

    def pad(self, x: Tensor) -> Tensor:
        step = self.group[0] * self.interval
        return (center_pad_to_multiple if self.centered else pad_to_multiple)(x, (step, step))

    def padding_mask(self, x: Tensor) -> Tensor:
        """(groups, 1, 1, G^2): 0 for keys on the map, MASKED for those in its padding."""
        on_map = self.pad(x.new_ones((1, *x.shape[1:3], 1)))
        return MASKED * (1 - partition(on_map, self.group, self.interval)).view(-1, 1, 1, self.group[0] ** 2)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
