"""Class attention: one token asks, all tokens answer. No token mixer: what comes out is that token alone."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend


class ClassAttention(nn.Module):
    """Attention whose only query is the first token: (B, 1 + N, C) -> (B, 1, C).

    "Going deeper with Image Transformers" (arXiv 2103.17239). Cost: 2 (1 + N) C^2 + 2 (C^2 + (1 + N) C) multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        qkv_bias: bias of the query projection and of the joint key and value projection.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query(tokens[:, :1]).unflatten(-1, (self.heads, -1))
        key, value = self.key_value(tokens).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return self.proj(attend(query, key, value))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
