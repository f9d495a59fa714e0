"""Bi-level routing attention: each region of the map picks the regions that its tokens attend to."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import depthwise_conv
from ommatid.nn.deploy import scale_output_
from ommatid.ops.bi_level_routing import bi_level_routing_attention
from ommatid.ops.windows import merge, pad_to_multiple, partition


class BiLevelRoutingAttention(nn.Module):
    """Attention of S x S regions to the k regions most like them: (B, H, W, C) -> (B, H, W, C).

    BiFormer (arXiv 2303.08810). Regions grow with the map. Scores are scaled by the whole width of the queries, not by
    that of a head, and a depthwise convolution of the values is added.
    Cost: 2 H W C (Q + C) + S^4 Q + k (H W / S)^2 (Q + C) + K^2 H W C multiply-adds, with Q = qk_dim, K = local_kernel.

    Args:
        dim: C.
        heads: number of heads; divides C and qk_dim.
        regions: S, along each side.
        topk: k, from 1 to S^2.
        qk_dim: Q, the width of queries and keys; C where None.
        local_kernel: K, of the convolution; odd.

    Maps whose sides are no multiples of S are zero-padded at the bottom and right, and nothing masks the padding.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        regions: int,
        topk: int,
        *,
        qk_dim: int | None = None,
        local_kernel: int = 5,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.regions = regions
        self.topk = topk
        self.widths = [qk_dim or dim, qk_dim or dim, dim]
        self.qkv = nn.Linear(dim, sum(self.widths))
        self.local = depthwise_conv(dim, local_kernel)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        padded = pad_to_multiple(x, (self.regions, self.regions))
        size = (padded.shape[1], padded.shape[2])
        region = (size[0] // self.regions, size[1] // self.regions)
        parts = self.qkv(padded).split(self.widths, dim=-1)
        query, key, value = (partition(part, region).unflatten(-1, (self.heads, -1)) for part in parts)
        mixed = bi_level_routing_attention(query, key, value, topk=self.topk, scale=self.widths[0] ** -0.5)
        mixed = merge(mixed, region, size) + self.local(parts[2])
        return self.proj(mixed[:, :height, :width])

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
