"""Global multi-head self-attention: every token looks at every token."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.attention import attend


class Attention(nn.Module):
    """Multi-head self-attention over all positions: (B, ..., C) -> (B, ..., C), whatever the axes between.

    "Attention Is All You Need" (arXiv 1706.03762); on image tokens: ViT (arXiv 2010.11929).
    Cost: 4 H W C^2 + 2 (H W)^2 C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        qkv_bias: bias of the joint query, key and value projection, which is ordered (3, heads, C / heads).
        bias: a module that gives what is added to the scaled scores, (heads, N, N).
        local: a module (B, ..., C) -> (B, ..., C), added to what the heads found before the output projection.
        value_local: the same, but computed from the values.
        head_dim: width of a head; C / heads where None, the heads' widths then add up to C.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_bias: bool = True,
        bias: nn.Module | None = None,
        local: nn.Module | None = None,
        value_local: nn.Module | None = None,
        head_dim: int | None = None,
    ) -> None:
        super().__init__()
        inner = heads * head_dim if head_dim else dim
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.bias = bias
        self.local = local
        self.value_local = value_local
        self.proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x.flatten(1, -2))
        mixed = attend(query, key, value, bias=None if self.bias is None else self.bias())
        if self.local is not None:
            mixed = mixed + self.local(x).flatten(1, -2)
        if self.value_local is not None:
            mixed = mixed + self.value_local(value.flatten(2).view(x.shape)).flatten(1, -2)
        return self.proj(mixed).view(x.shape)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, C) -> query, key and value, (B, N, heads, d) each."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        return query, key, value

    def input_layers(self) -> tuple[nn.Module, ...]:
        """What alone reads the input, so that a constant scale and shift of it can be folded in."""
        return (self.qkv,) if self.local is None else ()

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
