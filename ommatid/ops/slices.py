"""Working on a large input a slice at a time, so that what is made on the way stays in the processor's cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOKENS_PER_THREAD = 512
"""Enough rows for a matrix product to run at full speed, few enough for its result to stay in the cache."""

NUMBERS_PER_THREAD = 2**16
"""Of tokens with few channels more, so that the work outweighs the calls."""

FEWEST = 4
"""Every slice reads the weights again: fewer slices than this gain less than that costs."""


def in_slices(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function(x)`, computed slice by slice along the first axis where that is faster: inference on a CPU.

    A wide intermediate result of all tokens at once would be written to fresh memory, which costs more than the
    arithmetic of an activation; that of one slice is reused for the next. Peak memory falls with it. Gradients need all
    of it anyway, and a GPU or a compiler does better with one large call: there this is `function(x)`.

    Args:
        function: treats every entry of the first axis by itself.
        x: (N, ..., C), where N and the axes between count tokens.
    """
    count = slice_count(x)
    return function(x) if count == 1 else torch.cat([function(part) for part in x.chunk(count)])


def slice_count(x: Tensor) -> int:
    """The number of slices of (N, ..., C) that is fastest; 1 for all at once."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return 1
    tokens = max(TOKENS_PER_THREAD, NUMBERS_PER_THREAD // x.shape[-1]) * torch.get_num_threads()
    count = x.shape[:-1].numel() // tokens
    return 1 if count < FEWEST else count
