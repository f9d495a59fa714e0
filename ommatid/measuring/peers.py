"""Our models beside timm's models of the same architecture: equal weights, equal outputs, alternating runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.catalog.parity import fill
from ommatid.measuring.timing import quartiles
from ommatid.measuring.timm_families import TIMM_FAMILIES, TIMM_MODELS
from ommatid.models import family_of, load_reference
from ommatid.models.config import suggest
from ommatid.models.reference import rename

TOLERANCE = 1e-3
"""Largest difference of outputs, as a fraction of their largest magnitude, at which two float32 models are the same."""


@dataclass(frozen=True)
class Against:
    """Our model's time against a peer's, from pairs of alternating runs.

    `ratio` is the peer's time divided by ours, the median over pairs with its quartiles: above 1 ours is faster.
    `error` is the largest difference of the two models' outputs, as a fraction of the largest magnitude.
    """

    name: str
    latency_ms: float
    ratio: float
    ratio_p25: float
    ratio_p75: float
    error: float


def import_timm() -> Any:
    """Raises ValueError, with the way out, where timm is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise ValueError("a comparison against timm needs it installed: pip install timm") from None


def timm_twin(variant: str, model: nn.Module) -> nn.Module:
    """timm's model of the same architecture, in evaluation mode; both models get the same weights.

    The weights are drawn from their names (catalog/parity.py), so that every layer matters to the output: fresh ones
    would hide behind a layer scale of 1e-6.

    Raises:
        ValueError: timm has no such model or is absent, or weights of one have no place in the other.
    """
    timm = import_timm()
    if variant not in TIMM_MODELS:
        raise ValueError(f"timm has no model of the architecture {variant!r}{suggest(variant, TIMM_MODELS)}")
    config: Any = model.config
    family = TIMM_FAMILIES[family_of(model).id]
    sized = {"img_size": config.image_size} if hasattr(config, "image_size") else {}
    twin = timm.create_model(
        family.models[variant], num_classes=config.num_classes, in_chans=config.in_channels, **sized
    ).eval()
    state = learned_state(twin)
    twin.load_state_dict(state, strict=False)
    named = {rename(name, family.names): value for name, value in family.convert(state).items()}
    report = load_reference(model, named)
    if not report.complete:
        raise ValueError(f"timm's {family.models[variant]} is not the same architecture as {variant}: {report}")
    return twin


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """Values for all parameters and for the running statistics of batch norms, drawn from their names."""
    buffers = {name: value for name, value in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    learned = dict(model.named_parameters()) | buffers
    return {name: torch.from_numpy(fill(name, tuple(value.shape))) for name, value in learned.items()}


def published_size(twin: Any) -> tuple[int, int]:
    """Height and width of the images that timm publishes its model for."""
    _, height, width = twin.default_cfg["input_size"]
    return height, width


@torch.no_grad()
def output_error(ours: nn.Module, theirs: nn.Module, image: Tensor) -> float:
    """Largest difference of outputs, as a fraction of the largest magnitude.

    Raises:
        ValueError: it passes TOLERANCE, so that comparing times would mean nothing.
    """
    mine, reference = ours(image), theirs(image)
    error = float((mine - reference).abs().max() / reference.abs().max())
    if not error <= TOLERANCE:
        raise ValueError(f"outputs differ by {error:.1e} of their largest magnitude, so the times are not comparable")
    return error


def summarize(name: str, pairs: list[tuple[float, ...]], error: float) -> Against:
    """What alternating runs say: `pairs` are the seconds of ours and of the peer; `name` and `error` are passed on."""
    ratio = quartiles([peer / own for own, peer in pairs])
    return Against(
        name=name,
        latency_ms=1e3 * quartiles([peer for _, peer in pairs]).median,
        ratio=ratio.median,
        ratio_p25=ratio.p25,
        ratio_p75=ratio.p75,
        error=error,
    )
