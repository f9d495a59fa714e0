"""Which weights a pattern keeps: the N largest of every M in a row, or a share of all."""

from __future__ import annotations

import torch
from torch import Tensor

from ommatid.models.config import require


def nm_mask(weight: Tensor, n: int, m: int, *, dim: int = 0) -> Tensor:
    """Keeps the `n` largest magnitudes of every `m` consecutive weights: 0 or 1, shaped and typed as the weight.

    Of a matrix (out, in), blocks run along `in` (`dim` 0) or along `out` (`dim` 1), and over the ends of rows where `m`
    does not divide them. Of a convolution (out, in, kh, kw) they run over input channels at one place of the kernel.

    Raises:
        ValueError: `n` is not from 0 to `m`, or `m` does not divide the number of weights.
    """
    require(0 <= n <= m, "pattern", [n, m], "N of M with 0 <= N <= M")
    require(weight.numel() % m == 0, "pattern", [n, m], f"an M that divides the {weight.numel()} weights")
    if weight.dim() > 2:
        last = weight.movedim(1, -1)
        return _in_blocks(last, n, m).movedim(-1, 1)
    return _in_blocks(weight.T, n, m).T if dim else _in_blocks(weight, n, m)


def unstructured_mask(weight: Tensor, rate: float) -> Tensor:
    """Keeps the int((1 - rate) * weights) largest magnitudes: 0 or 1, shaped and typed as the weight."""
    require(0 <= rate < 1, "rate", rate, "from 0 up to, not including, 1")
    return _in_blocks(weight, int((1 - rate) * weight.numel()), weight.numel())


def _in_blocks(weight: Tensor, n: int, m: int) -> Tensor:
    blocks = weight.detach().abs().reshape(-1, m)
    smallest = blocks.argsort(1)[:, : m - n]
    return torch.ones_like(blocks).scatter_(1, smallest, 0.0).view(weight.shape)
