"""InLine attention: linear attention that tells all queries apart, with a convolution made for each image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.tokens import split_tokens
from ommatid.ops.dynamic_conv import dynamic_conv
from ommatid.ops.linear_attention import injective_attention


class InjectiveLinearAttention(nn.Module):
    """Injective linear attention plus a 3x3 depthwise convolution of the values: (B, H, W, C) -> (B, H, W, C).

    InLine (arXiv 2412.06590). The convolution's kernels are computed from the mean of the tokens.
    Cost: 4 H W C^2 + 2 H W C d + 9 H W C + 10 C d multiply-adds, d = C / heads.

    Args:
        dim: C.
        heads: number of heads; divides C.
        qkv_bias: bias of the joint query, key and value projection, which is ordered (3, heads, C / heads).
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5  # also of heads that have lost units since
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.kernels = nn.Sequential(
            nn.Conv1d(dim, dim, 1, groups=heads), nn.GELU(), nn.Conv1d(dim, 9 * dim, 1, groups=heads)
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """A map (B, H, W, C); or, with its `size` (H, W), a sequence (B, S + H W, C) whose first S tokens, such as a
        class token, pass by the convolution.
        """
        tokens = x.flatten(1, -2)
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        special, features = split_tokens(value, size or (x.shape[1], x.shape[2]))
        kernels = self.kernels(tokens.mean(1).unsqueeze(-1)).view(x.shape[0], 1, 1, -1, 9).mT
        local = F.pad(dynamic_conv(features, kernels).flatten(1, 2), (0, 0, special.shape[1], 0))
        by_heads = (part.unflatten(-1, (self.heads, -1)) for part in (query, key, value))
        return self.proj(injective_attention(*by_heads, scale=self.scale) + local).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)
