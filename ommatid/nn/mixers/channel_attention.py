"""Channel attention: every channel looks at the channels of its own group, each known by its whole map."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_


class ChannelAttention(nn.Module):
    """Attention between the channels of a group, over all positions: (B, ..., C) -> (B, ..., C).

    DaViT (arXiv 2204.03645). The sums over positions are not normalised, so that the softmax sharpens with the size
    of the map. Cost: 4 H W C^2 + 2 H W C^2 / groups multiply-adds.

    Args:
        dim: C.
        groups: number of groups; divides C.
        qkv_bias: bias of the joint projection to values, queries and keys, ordered (3, groups, C / groups).
    """

    def __init__(self, dim: int, groups: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        # The reference's names are query, key and value, in this order, but it is the first that is averaged.
        value, query, key = self.qkv(x.flatten(1, -2)).unflatten(-1, (3, self.groups, -1)).permute(2, 0, 3, 1, 4)
        scores = (query * query.shape[-1] ** -0.5).mT @ key
        mixed = value @ scores.softmax(-1).mT
        return self.proj(mixed.transpose(1, 2).flatten(2)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
