"""Leaving early: each function takes a trained model and gives one that stops where more layers change little."""

from __future__ import annotations

from torch import nn

from ommatid.methods.reduced import Reduced, reduced
from ommatid.models.config import require

__all__ = ["exit_early"]


def exit_early(model: nn.Module, *, threshold: float, earliest: int = 1) -> Reduced:
    """MuE (arXiv 2211.11152) on a plain transformer: it ends behind the block that changes its tokens too little.

    One decision for a batch; best with one image at a time. Cannot be exported: how many blocks run is seen on the way.

    Args:
        model: a plain transformer.
        threshold: the cosine between a block's input and output above which the rest is left out; 1 for never.
        earliest: blocks that always run.

    Raises:
        ValueError: the model is no plain transformer, or a number is impossible.
    """
    require(-1 <= threshold <= 1, "threshold", threshold, "from -1 to 1")
    require(earliest >= 1, "earliest", earliest, "1 or more")
    return reduced(model, "early_exit", {"threshold": threshold, "earliest": earliest})
