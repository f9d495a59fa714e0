"""Which precision a computation needs, whatever comes in."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(x: Tensor) -> Tensor:
    """In float32, or what it is in if that is more: for sums and transforms that half precision is too coarse for."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
