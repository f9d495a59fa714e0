"""Sparse upcycling: a trained model goes on as a mixture of experts.

"Sparse Upcycling: Training Mixture-of-Experts from Dense Checkpoints" (arXiv 2212.05055).
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from ommatid.nn.moe.upcycling import upcycle_

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def upcycle(model: AnyModel, *, experts: int = 8, top_k: int = 2, every: int = 2) -> AnyModel:
    """A copy of the model in which every so many-th feed-forward layer became a mixture of experts.

        moe = ommatid.upcycle(ommatid.load("dense.safetensors"), experts=8, top_k=2, every=2)
        moe.save("experts.safetensors")

    Experts start as copies of the layer, and weights of a token's experts sum to 1: until it is trained, the copy
    answers as the model does. Layers that treat tokens by themselves let every token choose; those that look at
    neighbours let every image choose. The copy is saved, loaded and trained like any model, with its balance losses.

    Args:
        model: any model with feed-forward layers, trained or not; it is left as it is.
        experts: E of each mixture.
        top_k: experts of a token.
        every: 1 for all feed-forward layers, 2 for every second one, and so on; the last of so many is replaced.

    Raises:
        ValueError: the numbers are not possible, the model has no such layers, has experts already, or was changed in
            a way that its config does not know.
    """
    if getattr(model, "upcycled", None) is not None:
        raise ValueError(f"{type(model).__name__} has experts already: allowed is a model without")
    if getattr(model, "resized", None) is not None or getattr(model, "deployed", False):
        raise ValueError(f"{type(model).__name__} was pruned or deployed: allowed is a model as its config says")
    copied = copy.deepcopy(model)
    upcycle_(copied, experts=experts, top_k=top_k, every=every)
    copied.upcycled = {"experts": experts, "top_k": top_k, "every": every}  # type: ignore[assignment]
    return copied
