"""A transformer without norms at inference: unified norms in the place of its layer norms.

"Unified Normalization for Accelerating and Stabilizing Transformers" (arXiv 2208.01313).
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from ommatid.models.config import require
from ommatid.nn.unified_norm import replace_layer_norms_

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def unify_norms(
    model: AnyModel, *, window: int = 4, warmup_iters: int = 4000, outlier_filtration: bool = True
) -> AnyModel:
    """A copy of the model in which every layer norm over channels is a unified norm, to be trained.

        start = ommatid.unify_norms(ommatid.create_model("deit_tiny", num_classes=10))
        start.save("start.safetensors")  # for `ommatid train photos --weights start.safetensors`

    Scales and shifts stay those of the layer norms, but answers change: a unified norm subtracts no mean, and divides
    by the same numbers for all tokens. `deploy()` folds those that stand in front of a block's linear layers into them.
    The copy is saved, loaded and trained like any model.

    Args:
        model: any model with layer norms, trained or not; it is left as it is.
        window: training steps that second moments, and statistics of gradients, are smoothed over.
        warmup_iters: steps before that begins; as published for long trainings, a twentieth of a short one.
        outlier_filtration: whether a batch that looks like an outlier is normed by its own moment; as published for
            vision.

    Raises:
        ValueError: a number is impossible, or the model has no layer norms, or unified ones already, or was changed in
            a way that its config does not know.
    """
    require(window >= 1, "window", window, "1 or more")
    require(warmup_iters >= 0, "warmup_iters", warmup_iters, "0 or more")
    if getattr(model, "unified_norms", None) is not None:
        raise ValueError(f"{type(model).__name__} has unified norms already: allowed is a model without")
    if getattr(model, "resized", None) is not None or getattr(model, "deployed", False):
        raise ValueError(f"{type(model).__name__} was pruned or deployed: allowed is a model as its config says")
    copied = copy.deepcopy(model)
    settings = {"window": window, "warmup_iters": warmup_iters, "outlier_filtration": outlier_filtration}
    replace_layer_norms_(copied, window=window, warmup_iters=warmup_iters, outlier_filtration=outlier_filtration)
    copied.unified_norms = settings  # type: ignore[assignment]
    return copied
