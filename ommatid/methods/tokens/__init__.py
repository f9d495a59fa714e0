"""Fewer tokens: each function takes a trained model and gives one that computes fewer of them, with its weights.

What is given is a `Reduced` model: it trains, saves, loads and exports like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ommatid.methods.reduced import Reduced, common_width, reduced, trunk_of
from ommatid.models.backbones.dependencyvit import DependencyViT
from ommatid.models.config import require
from ommatid.models.sizes import whole_patches

__all__ = ["cluster_tokens", "drop_tokens", "merge_tokens", "prune_dependencies", "sparsify_attention"]


def merge_tokens(
    model: nn.Module,
    *,
    r: int | Sequence[int] | None = None,
    keep: float | None = None,
    inflection: float = 0.0,
    prop_attn: bool = True,
) -> Reduced:
    """ToMe (arXiv 2210.09461): every block merges the tokens that are most alike. Needs no training, gains from some.

    Args:
        model: a plain transformer.
        r: tokens to merge in each block; or ...
        keep: ... the share of the patches that is left behind the last block, which gives r.
        inflection: where most are merged: -1 in the first blocks, 0 alike, 1 in the last.
        prop_attn: attention counts a token as often as there are patches in it.

    Raises:
        ValueError: the model is no plain transformer, or a number is impossible.
    """
    require((r is None) != (keep is None), "r", r, "a number, unless there is keep")
    if keep is not None:
        require(0 < keep <= 1, "keep", keep, "above 0, up to 1")
        r = round((1 - keep) * patches(model) / len(trunk_of(model)))
    assert r is not None
    settings = {"r": r if isinstance(r, int) else list(r), "inflection": inflection, "prop_attn": prop_attn}
    return reduced(model, "tome", settings)


def cluster_tokens(model: nn.Module, *, keep: float, location: int | None = None, **numbers: Any) -> Reduced:
    """Expedite (arXiv 2210.01035): from a block on, cluster centres instead of patches; these come back at the end.

    Needs no training, and keeps the map's resolution: for dense prediction.

    Args:
        model: a plain transformer.
        keep: centres, as a share of the patches.
        location: number of that block, from 0; after a third of them where None.
        numbers: `iterations`, `temperature`, `window`, `k` of `ops.token_clustering`.

    Raises:
        ValueError: as `merge_tokens`.
    """
    location = len(trunk_of(model)) // 3 if location is None else location
    return reduced(model, "expedite", {"location": location, "keep": keep, **numbers})


def drop_tokens(model: nn.Module, *, groups: Sequence[int] | None = None, heads: int | None = None) -> Reduced:
    """IA-RED^2 (arXiv 2106.12620): before each group of blocks an interpreter says which tokens go on.

    The interpreters are fresh: `interpreter_training.train_interpreters` teaches them.

    Args:
        model: a plain transformer with a class token.
        groups: how many blocks are in each; three equal ones where None.
        heads: of the interpreters; 6, or the largest number below that divides the width, where None.

    Raises:
        ValueError: as `merge_tokens`.
    """
    depth, width = len(trunk_of(model)), common_width(model)
    thirds = [depth // 3 + (i < depth % 3) for i in range(3)]
    heads = heads or next(count for count in (6, 5, 4, 3, 2, 1) if width % count == 0)
    settings = {"groups": list(groups or [size for size in thirds if size]), "heads": heads}
    return reduced(model, "ia_red2", settings)


def sparsify_attention(model: nn.Module, *, keep: float = 0.25, **numbers: Any) -> Reduced:
    """Sparsifiner (arXiv 2303.13755): attention between the pairs of tokens that a small predictor picks.

    The predictors are fresh: `predictor_training.train_predictors` teaches them. Saves multiply-adds, and time only
    where a sparse kernel computes them: none of PyTorch's does on a CPU.

    Args:
        model: a plain transformer with a class token, for images of its own size from now on.
        keep: share of the keys that each query keeps.
        numbers: further arguments of `nn.sparse_attention.ConnectivityPredictor`.

    Raises:
        ValueError: as `merge_tokens`.
    """
    require(0 < keep <= 1, "keep", keep, "above 0, up to 1")
    return reduced(model, "sparsifiner", {"tokens": 1 + patches(model), "keep_rate": keep, **numbers})


def prune_dependencies(
    model: DependencyViT, *, layers: Sequence[int] = (2, 5, 8, 11), ratio: float = 0.16
) -> DependencyViT:
    """DependencyViT-Lite (arXiv 2304.03282): tokens that send few messages are pruned in some blocks, from 1.

    Raises:
        ValueError: a number is impossible.
    """
    lite = DependencyViT(model.config.replace(prune_layers=tuple(layers), prune_ratio=ratio))
    lite.load_state_dict(model.state_dict())
    return lite.train(model.training)


def patches(model: nn.Module) -> int:
    """Patches of an image of the size that a plain transformer was made for, over all channels it reads apart."""
    config: Any = model.config
    rows, columns = whole_patches(config.image_size, config.patch_size)
    return rows * columns * len(getattr(config, "channels", (0,)))
