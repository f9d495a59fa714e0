"""Fewer tokens in networks for dense prediction, whose map stays whole: each function gives a smaller copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.methods.reduced import Reduced
from ommatid.methods.tokens import cluster_tokens
from ommatid.methods.tokens.groups import token_groups, trunk_inputs
from ommatid.models.config import require
from ommatid.models.decoders.dtop import DToP
from ommatid.models.dense import DenseModel
from ommatid.nn.trunks.clustered import ClusteredTrunk

SHARPNESS = 300.0
"""Of clustering: the temperature times the mean squared length of a token."""


def reduce_backbone(model: DenseModel, method: Callable[[nn.Module], Reduced]) -> DenseModel:
    """A copy of the network in which the method, such as `cluster_tokens`, was applied to its backbone.

    Raises:
        ValueError: there is no backbone, or the method does not apply to it.
    """
    backbone = model.backbone
    if backbone is None:
        raise ValueError(f"{type(model).__name__} has no backbone whose tokens could be fewer")
    smaller: Any = copy.deepcopy(model)
    smaller.encoder.backbone = method(backbone)
    own = smaller.encoder.backbone.config.to_dict()
    fields = {name: own[name] for name in ("family", "base", "method", "settings")}
    smaller.config = model.config.replace(backbone="reduced", backbone_fields=fields)
    return smaller


def cluster_backbone(model: DenseModel, images: Sequence[Tensor], *, keep: float) -> DenseModel:
    """A copy whose backbone reads cluster centres, as sharply told apart as the size of its features asks for.

    The published temperature is a number for the features of one network: where they are smaller, every patch would
    come back as a mean of twenty centres.

    Args:
        model: on a plain transformer.
        images: a few, (1, C, H, W) each, that tell how large the features are.
        keep: centres, as a share of the patches.

    Raises:
        ValueError: as `reduce_backbone`.
    """

    def clustered(backbone: nn.Module) -> Reduced:
        encoder: Any = model.encoder
        probe = cluster_tokens(backbone, keep=keep)
        sizes = [_feature_size(probe, encoder.padded(image)) for image in images]
        return cluster_tokens(backbone, keep=keep, temperature=float(f"{SHARPNESS / mean(sizes):.3g}"))

    return reduce_backbone(model, clustered)


@torch.no_grad()
def _feature_size(model: Reduced, images: Tensor) -> float:
    """Mean squared length of the tokens that are clustered."""
    trunk = model.model.blocks
    assert isinstance(trunk, ClusteredTrunk)
    before, _, _ = trunk.clustered(*trunk_inputs(model, images))
    return before.square().sum(-1).mean().item()


def leave_early(model: nn.Module, *, threshold: float) -> DToP:
    """DToP (arXiv 2308.01045): tokens of a higher score than the threshold leave at each head that is not the last.

    Needs no training, gains from some.

    Args:
        model: a `dtop`.
        threshold: above 0; 1 lets nothing leave.

    Raises:
        ValueError: the model is none, or the threshold is impossible.
    """
    require(isinstance(model, DToP), "model", type(model).__name__, "a dtop")
    assert isinstance(model, DToP)
    require(0 < threshold <= 1, "threshold", threshold, "above 0, up to 1")
    smaller = copy.deepcopy(model)
    smaller.config = model.config.replace(thresholds=(threshold,) * len(model.config.thresholds))
    return smaller


@torch.no_grad()
def went_on(model: DenseModel, images: Tensor) -> Tensor | None:
    """(B, C, H, W) -> (B, h, w) integers: equal for patches that became one token, -1 for those that left early.

    None where every patch went on as a token of its own.
    """
    if isinstance(model, DToP):
        left = model.left_early(images)
        numbers = torch.arange(left[0].numel(), device=left.device).view(left.shape[1:])
        return torch.where(left, -1, numbers) if left.any() else None
    encoder = getattr(model, "encoder", None)
    if encoder is None or not isinstance(encoder.backbone, Reduced):
        return None
    return token_groups(encoder.backbone, encoder.padded(images))


def patch_side(model: DenseModel) -> int:
    """Pixels that a token of the network is wide and high. Raises ValueError for one without a single grid."""
    if isinstance(model, DToP):
        return model.config.patch_size
    strides = model.backbone.strides if model.backbone is not None else ()
    require(len(strides) == 1, "model", type(model).__name__, "one on a plain transformer")
    return strides[0]
