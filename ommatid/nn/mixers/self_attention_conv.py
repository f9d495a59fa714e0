"""Self-attention convolution: attention in sliding windows with the interface of a convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import Conv2d
from ommatid.ops.precision import precise
from ommatid.ops.refusal import require_map
from ommatid.ops.zero_padded_windows import window_padding, window_scores, window_sums


class SelfAttentionConv(nn.Module):
    """Every token attends to the window around it, then a convolution and a ReLU: (B, H, W, C) -> (B, H', W', D).

    MSA-Conv of TiC (arXiv 2310.04134). There is one head; the zeros outside the map take part in the softmax; only the
    convolution strides. Weights fit any map size, as there are no positions. Without further arguments it keeps the
    shape. Cost: 3 H W C^2 + 2 K^2 H W C + K^2 H' W' C D multiply-adds.

    Args:
        dim: C.
        kernel_size: K of the windows and of the convolution; one number, or (vertical, horizontal).
        out_dim: D; C where None.
        stride: of the convolution.
        dilation: of the windows; dilation * (K - 1) is even.
        padding: zeros around the map in the convolution; half its kernel where None.
        bias: of the convolution.
        dropout: of the attention, in training.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int | tuple[int, int],
        *,
        out_dim: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        padding: int | None = None,
        bias: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        rows, columns = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        window_padding((rows, columns), dilation)
        self.kernel_size, self.dilation, self.dropout = (rows, columns), dilation, dropout
        self.scale = dim**-0.5  # of the whole width, also where pruning left less
        self.qkv = nn.Linear(dim, 3 * dim)
        around = (rows // 2, columns // 2) if padding is None else (padding, padding)
        self.smallest = (max(rows - 2 * around[0], 1), max(columns - 2 * around[1], 1))
        self.conv = Conv2d(dim, out_dim or dim, (rows, columns), stride=stride, padding=around, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        fits = x.shape[1] >= self.smallest[0] and x.shape[2] >= self.smallest[1]
        require_map(fits, x, f"at least {self.smallest}, the kernel without its padding")
        query, key, value = self.project(x)
        weights = F.dropout(self.weigh(query, key), self.dropout, self.training)
        mixed = window_sums(weights, value, kernel_size=self.kernel_size, dilation=self.dilation)
        return F.relu(self.conv(mixed + x))

    def attention(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, K^2): how much each position of its window, row by row, counts for a token."""
        query, key, _ = self.project(x)
        return self.weigh(query, key)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, W, C) -> query, key and value, the same, in float32 at least."""
        projected = self.qkv(x)
        query, key, value = precise(projected).unflatten(-1, (3, -1)).unbind(-2)
        return query, key, value

    def weigh(self, query: Tensor, key: Tensor) -> Tensor:
        return window_scores(query * self.scale, key, kernel_size=self.kernel_size, dilation=self.dilation).softmax(-1)
