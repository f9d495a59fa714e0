"""Window attention: tokens look only at tokens of their own window, which may be shifted."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.position import RelativePositionBias
from ommatid.ops.attention import attend
from ommatid.ops.shifted_windows import mix_in_windows
from ommatid.ops.slices import in_slices
from ommatid.ops.windows import pad_to_multiple

# Added to the scores of pairs that were no neighbours before the shift; the reference's constant.
MASKED = -100.0


class WindowAttention(nn.Module):
    """Self-attention inside (shifted) windows with a relative position bias: (B, H, W, C) -> (B, H, W, C).

    Swin Transformer (arXiv 2103.14030). Maps that are no multiple of the window are zero-padded at the bottom and
    right, as in the authors' dense prediction code. Cost: 4 H W C^2 + 2 M^2 H W C multiply-adds for windows of M x M.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window_size: M.
        shift: of the windows against the map's corner, in tokens.
        qkv_bias: bias of the joint query, key and value projection.
        qkv: another such projection, C -> 3 C, ordered (3, heads, C / heads).
        similarity: what queries and keys, (B, N, heads, d), go through before their scaled products are the scores.
        bias: what gives the position bias, (heads, M^2, M^2); a table where None.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window_size: int,
        *,
        shift: int = 0,
        qkv_bias: bool = True,
        qkv: nn.Module | None = None,
        similarity: nn.Module | None = None,
        bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = (window_size, window_size)
        self.shift = shift
        self.qkv = qkv or nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.similarity = similarity
        self.bias = bias or RelativePositionBias(self.window, heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias()

        def mix(windows: Tensor, foreign: Tensor | None) -> Tensor:
            masked = masked_bias(bias, foreign)
            return in_slices(lambda some: self.attend_windows(some, masked), windows)

        mixed = mix_in_windows(mix, pad_to_multiple(x, self.window), self.window, (self.shift, self.shift))
        return mixed[:, : x.shape[1], : x.shape[2]]

    def attend_windows(self, windows: Tensor, bias: Tensor) -> Tensor:
        """(n, N, C) -> the same, every window by itself; bias (heads, N, N)."""
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if self.similarity is not None:
            query, key = self.similarity(query, key)
        return self.proj(attend(query, key, value, bias=bias))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


def masked_bias(bias: Tensor, foreign: Tensor | None) -> Tensor:
    """What is added to the scores, (heads, N, N), from the position bias and the pairs that may not meet, (N, N)."""
    return bias if foreign is None else bias + MASKED * foreign.to(bias.dtype)
