"""Hyena N-D, in two dimensions: gates and convolutions as large as the map, in place of attention.

"Multi-Dimensional Hyena for Spatial Inductive Bias" (arXiv 2309.13600).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.implicit_filter import position_features
from ommatid.nn.mixers import Hyena2d
from ommatid.ops.refusal import require_length


@dataclass(frozen=True, kw_only=True)
class HyenaNDConfig(PartConfig):
    """`size` is L of L x L tokens. A "direct" `filter` reads neither windows nor what is about networks;
    `sqrt_decay` is for the windows of "joint" ones.
    """

    dim: int = 192
    size: int = 14
    order: int = 2
    filter_dim: int = 64
    position_dim: int = 3
    inner_layers: int = 2
    filter: Literal["product", "joint", "direct"] = "product"
    window: Literal["none", "standard", "learned", "symmetric"] = "standard"
    sqrt_decay: bool = False
    direction: Literal["standard", "four", "four_mixed", "alternate"] = "standard"

    def check(self) -> None:
        require_positive(dim=self.dim, size=self.size, filter_dim=self.filter_dim)
        require(self.order > 1, "order", self.order, "2 or more, one more than convolutions")
        paired = self.position_dim % 2 == 1 and self.position_dim >= 3
        require(paired, "position_dim", self.position_dim, "an odd number from 3 on")
        require(self.inner_layers >= 0, "inner_layers", self.inner_layers, "0 or more")
        alone = self.filter != "product" or self.window != "symmetric"
        require(alone, "window", self.window, "'none', 'standard' or 'learned' for product filters")


@register("hyena_nd", HyenaNDConfig)
class HyenaND(Model):
    """tokens (B, L^2, C), row by row -> features (B, L^2, C)."""

    config: HyenaNDConfig

    def __init__(self, config: HyenaNDConfig) -> None:
        super().__init__(config)
        self.mixer = Hyena2d(
            config.dim,
            (config.size, config.size),
            order=config.order,
            filter=config.filter,
            window=config.window,
            sqrt_decay=config.sqrt_decay,
            filter_dim=config.filter_dim,
            position_dim=config.position_dim,
            inner_layers=config.inner_layers,
            direction=config.direction,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mixer(self.on_map(tokens)).flatten(1, 2)

    def on_map(self, tokens: Tensor) -> Tensor:
        """(B, L^2, C) -> (B, L, L, C)."""
        side = self.config.size
        require_length(tokens.shape[1] == side**2, tokens.shape[1], f"{side**2}, a map of {side} x {side}")
        return tokens.unflatten(1, (side, side))


REFERENCE_NAMES = [
    (r"^linear_mix\.", "merge.linear."),
    (r"^out_proj\.", "proj."),
    (r"^filter_fn\.", "filter."),
    (r"^filter\.pos_emb\.z$", "filter.positions"),
    (r"^filter\.act\.freq$", "filter.frequency"),
    (r"^filter\.Ximplicit_filter\.", "filter.surface.rows."),
    (r"^filter\.Yimplicit_filter\.", "filter.surface.columns."),
    (r"^filter\.implicit_filter\.", "filter.surface.network."),
    (r"(\.surface\.\w+)\.(\d+)\.(weight|bias)$", lambda match: f"{match[1]}.layers.{int(match[2]) // 2}.{match[3]}"),
    (r"\.Xmodulation\.deltas$", ".surface.row_window.rates"),
    (r"\.Ymodulation\.deltas$", ".surface.column_window.rates"),
    (r"\.Xmodulation\.", ".surface.row_window."),
    (r"\.Ymodulation\.", ".surface.column_window."),
    (r"\.modulation\.X?deltas$", ".surface.window.rows"),
    (r"\.modulation\.Ydeltas$", ".surface.window.columns"),
    (r"\.modulation\.", ".surface.window."),
    (r"^filter\.bias$", "filter.skip"),
    (r"^bias$", "filter.skip"),
    (r"^filter$", "filter.filter"),
    (r"^", "mixer."),
]

REFERENCE_IGNORED = [
    r"implicit_filter\.\d+\.freq$",  # `act.freq` once more
    r"pos_emb\.t$",
]


def reference_outputs(model: HyenaND, tokens: Tensor) -> dict[str, Tensor]:
    config, mixer = model.config, model.mixer
    gated = mixer.gated(model.on_map(tokens))
    outputs = {"features": mixer.proj(mixer.merge(gated)).flatten(1, 2), "gated": gated.flatten(2, 3)}
    if not config.direction.startswith("four"):
        outputs["gated"] = outputs["gated"].squeeze(1)
    if config.filter == "direct":
        return outputs
    kernels, _ = mixer.filter(config.size)
    known = {"kernel": kernels.unflatten(0, (config.order - 1, -1))}
    return outputs | known | {"position_init": position_features(config.size, config.position_dim)}
