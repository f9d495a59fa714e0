"""Softmax-free attention: tokens meet through landmarks, in a Gaussian kernel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.ops.refusal import require_map
from ommatid.ops.softmax_free import softmax_free_attend


class SoftmaxFreeAttention(nn.Module):
    """Attention by a Gaussian kernel of rank m, and a depthwise convolution of the values: (B, H, W, C) -> the same.

    SOFT (arXiv 2110.11945), SOFT++ (arXiv 2207.03341). Keys are the queries; m = (H // r) (W // r) landmarks are
    convolved from them. Rows are not normalised. Cost, with heads of the width d = C / h and T iterations:
    H W (3 C^2 + C d + 3 m C + K^2 C) + 2 T h m^3 multiply-adds.

    Args:
        dim: C.
        heads: h; divides C.
        ratio: r, side of the square that a landmark sums up.
        kernel_size: K, odd, of the convolution; the channels of a head share its kernel.
        iterations: T, of Newton's iteration for the inverse of the landmarks' kernel.
        normalize: whether that inverse is normalised (SOFT++), not regularised (SOFT).

    Raises:
        ValueError: the map has a side shorter than r.
    """

    def __init__(
        self, dim: int, heads: int, ratio: int, *, kernel_size: int, iterations: int = 20, normalize: bool = False
    ) -> None:
        super().__init__()
        head_dim = dim // heads
        self.heads = heads
        self.divisor = head_dim**0.25  # also of a layer that has lost channels or heads since
        self.ratio = ratio
        self.iterations = iterations
        self.normalize = normalize
        self.query = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.landmark = nn.Conv2d(head_dim, head_dim, ratio, stride=ratio, bias=False)
        self.landmark_norm = nn.LayerNorm(head_dim)
        self.landmark_act = nn.GELU()
        self.local = nn.Conv2d(heads, heads, kernel_size, padding=kernel_size // 2, groups=heads, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        require_map(min(x.shape[1:3]) >= self.ratio, x, f"at least {self.ratio} a side")
        query = self.query(x) / self.divisor
        value = self.value(x)
        mixed = softmax_free_attend(
            query.flatten(1, 2).unflatten(-1, (self.heads, -1)),
            self.landmarks(query),
            value.flatten(1, 2).unflatten(-1, (self.heads, -1)),
            iterations=self.iterations,
            normalize=self.normalize,
        )
        return self.proj(mixed.view(x.shape) + self.local_view(value))

    def landmarks(self, query: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, m, h, d); every head is convolved by the same kernel."""
        kernel = self.landmark.weight.repeat(self.heads, 1, 1, 1)
        convolved = F.conv2d(query.permute(0, 3, 1, 2), kernel, stride=self.ratio, groups=self.heads)
        by_head = convolved.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (self.heads, -1))
        return self.landmark_act(self.landmark_norm(by_head))

    def local_view(self, value: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        channels = value.shape[-1]
        kernel = self.local.weight.repeat_interleave(channels // self.heads, dim=0)
        convolved = F.conv2d(value.permute(0, 3, 1, 2), kernel, padding=self.local.padding, groups=channels)
        return convolved.permute(0, 2, 3, 1)
