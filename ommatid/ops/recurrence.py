"""The linear recurrence that scans, retention and gated linear attention all run from chunk to chunk."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def linear_recurrence(decays: Iterable[Tensor], entering: Iterable[Tensor], first: Tensor) -> list[Tensor]:
    """[s_0, s_1, ...] with s_0 = `first` and s_(i+1) = decays_i * s_i + entering_i."""
    states = [first]
    for decay, entry in zip(decays, entering, strict=True):
        states.append(torch.addcmul(entry, decay, states[-1]))
    return states
