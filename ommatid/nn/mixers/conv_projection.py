"""Convolutional projection: attention whose queries, keys and values come from depthwise convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.deploy import scale_output_
from ommatid.nn.tokens import join_tokens, split_tokens
from ommatid.ops.attention import attend


class ConvProjectionAttention(nn.Module):
    """Attention behind depthwise convolutions, those of keys and values strided: (B, H, W, C) -> (B, H, W, C).

    CvT (arXiv 2103.15808). Scores are scaled by the whole width, C ** -0.5, not by that of a head.
    Cost: (2 + 2 / s^2) H W C^2 + 2 (H W / s)^2 C + (1 + 2 / s^2) K^2 H W C multiply-adds.

    Args:
        dim: C.
        heads: number of heads; divides C.
        kernel_size: K, odd.
        stride: s, of keys and values.
        qkv_bias: bias of the linear layers behind the convolutions.
    """

    def __init__(self, dim: int, heads: int, *, kernel_size: int = 3, stride: int = 2, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = dim**-0.5  # also of a layer that has lost channels since
        self.convs = nn.ModuleDict(
            {
                role: ConvNorm(dim, dim, kernel_size, stride=1 if role == "query" else stride, groups=dim)
                for role in ("query", "key", "value")
            }
        )
        self.linears = nn.ModuleDict({role: nn.Linear(dim, dim, bias=qkv_bias) for role in self.convs})
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """A map (B, H, W, C); or, with its `size` (H, W), a sequence (B, S + H W, C) whose first S tokens, such as a
        class token, pass by the convolutions.
        """
        special, features = (x[:, :0, 0], x) if size is None else split_tokens(x, size)
        query, key, value = (
            self.linears[role](join_tokens(special, conv(features))).unflatten(-1, (self.heads, -1))
            for role, conv in self.convs.items()
        )
        return self.proj(attend(query, key, value, scale=self.scale)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
