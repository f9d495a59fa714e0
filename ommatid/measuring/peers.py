"""Our models beside timm's models of the same architecture: equal weights, equal outputs, alternating runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.catalog.parity import fill
from ommatid.measuring.timing import quartiles
from ommatid.models import family_of, load_reference
from ommatid.models.config import suggest
from ommatid.models.reference import rename

TIMM_MODELS = {
    **{f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")},
    "vit_base_patch32": "vit_base_patch32_224",
    **{f"deit_{size}": f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")},
    **{f"swin_{size}": f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")},
    **{f"swin_{size}_window12_384": f"swin_{size}_patch4_window12_384" for size in ("base", "large")},
    **{f"convnext_{size}": f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")},
    **{f"pvt_v2_{size}": f"pvt_v2_{size}" for size in ("b0", "b1", "b2", "b2_li", "b3", "b4", "b5")},
}
"""Our variant -> timm's model of the same architecture."""

TIMM_NAMES: dict[str, list[tuple[str, Any]]] = {
    "vit": [],
    "swin": [
        (r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) - 1}.downsample."),
        (r"^head\.fc\.", "head."),
    ],
    "convnext": [
        (r"^stem\.", "downsample_layers.0."),
        (r"^stages\.(\d+)\.downsample\.", r"downsample_layers.\1."),
        (r"^stages\.(\d+)\.blocks\.", r"stages.\1."),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc", ".pwconv"),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ],
    "pvt_v2": [
        (r"^patch_embed\.", "patch_embed1."),
        (r"^stages\.(\d+)\.downsample\.", lambda match: f"patch_embed{int(match[1]) + 1}."),
        (r"^stages\.(\d+)\.blocks\.", lambda match: f"block{int(match[1]) + 1}."),
        (r"^stages\.(\d+)\.norm\.", lambda match: f"norm{int(match[1]) + 1}."),
        (r"\.dwconv\.", ".dwconv.dwconv."),
    ],
}
"""Family -> (regex, replacement) from timm's parameter names to those of the reference implementation."""

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
    sized = {"img_size": config.image_size} if hasattr(config, "image_size") else {}
    twin = timm.create_model(
        TIMM_MODELS[variant], num_classes=config.num_classes, in_chans=config.in_channels, **sized
    ).eval()
    state = {name: torch.from_numpy(fill(name, tuple(value.shape))) for name, value in twin.named_parameters()}
    twin.load_state_dict(state, strict=False)
    rules = TIMM_NAMES[family_of(model).id]
    report = load_reference(model, {rename(name, rules): value for name, value in state.items()})
    if not report.complete:
        raise ValueError(f"timm's {TIMM_MODELS[variant]} is not the same architecture as {variant}: {report}")
    return twin


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
