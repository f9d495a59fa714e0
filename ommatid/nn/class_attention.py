"""Class attention: one token asks, all tokens answer. No token mixer: what comes out is that token alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_


class ClassAttention(nn.Module):
    """Attention whose only query is the first token: (B, 1 + N, C) -> (B, 1, C).

    "Going deeper with Image Transformers" (arXiv 2103.17239). A single query needs neither keys nor values written out:
    q (W x) is (q W) x for every token x, and the weighted mean of W x is W times the weighted mean of x.
    Cost: 4 C^2 + 2 heads (1 + N) C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        qkv_bias: bias of the query projection and of the joint key and value projection.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5  # also of heads that have lost units since
        self.query = nn.Linear(dim, dim, bias=qkv_bias)
        self.key_value = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.query(tokens[:, 0]).unflatten(-1, (self.heads, -1))
        key, value = self.key_value.weight.unflatten(0, (2, self.heads, -1)).unbind()
        # The bias of the keys adds the same to all scores of a head, which the softmax cancels.
        scores = torch.einsum("bhd,hdc->bhc", query * self.scale, key) @ tokens.mT
        read = torch.einsum("bhc,hdc->bhd", scores.softmax(-1) @ tokens, value).flatten(1)
        if self.key_value.bias is not None:
            read = read + self.key_value.bias.chunk(2)[1]
        return self.proj(read).unsqueeze(1)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
