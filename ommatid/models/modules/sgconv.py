"""SGConv: a global convolution whose kernel is a few short pieces, stretched and weakened the further they reach.

"What Makes Convolutional Models Great on Long Sequence Modeling?" (arXiv 2210.09298).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.mixers.global_conv import (
    MODES,
    GlobalConv,
    GlobalConvLayer,
    MultiScaleKernel,
    scales_for,
)

ACTIVATIONS: dict[str | None, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
    "linear": nn.Identity,
    "id": nn.Identity,
    None: nn.Identity,
}


@dataclass(frozen=True, kw_only=True)
class SGConvConfig(PartConfig):
    """`mode` is words joined by "_": see `MultiScaleKernel`. `num_scales` follows from `max_length` where None.

    With `linear` nothing comes behind the convolution: no `act`, no norm (`ln`), no linear layer (`post_act`).
    """

    dim: int = 256
    max_length: int = 1024
    kernel_dim: int = 64
    num_scales: int | None = None
    init_scale: int = 0
    decay: tuple[float, float] = (2.0, 2.0)
    channels: int = 1
    bidirectional: bool = False
    mode: str = "cat_randn"
    act: str | None = "gelu"
    post_act: Literal["glu"] | None = None
    ln: bool = False
    linear: bool = False

    def check(self) -> None:
        require_positive(dim=self.dim, max_length=self.max_length, kernel_dim=self.kernel_dim, channels=self.channels)
        require(self.init_scale >= 0, "init_scale", self.init_scale, "0 or more")
        words = self.mode.split("_")
        known = set(words) <= set(MODES) and bool({"cat", "sum"} & set(words))
        require(known, "mode", self.mode, f"'cat' or 'sum', and any of {', '.join(MODES[2:])}, joined by '_'")
        require(self.act in ACTIVATIONS, "act", self.act, " or ".join(map(repr, ACTIVATIONS)))
        several = self.num_scales is None or self.num_scales > 0
        require(several, "num_scales", self.num_scales, "null or a positive integer")
        reaches = self.scales > 0
        require(reaches, "max_length", self.max_length, "long enough for one piece, kernel_dim * 2^init_scale")

    @property
    def scales(self) -> int:
        return self.num_scales or scales_for(self.max_length, self.kernel_dim, self.init_scale)


@register("sgconv", SGConvConfig)
class SGConv(Model):
    """tokens (B, L, C) -> features (B, L, C), or (B, L, channels * C) if `linear`."""

    config: SGConvConfig

    def __init__(self, config: SGConvConfig) -> None:
        super().__init__(config)
        count = (1 + config.bidirectional) * config.channels
        kernel = MultiScaleKernel(
            count,
            config.dim,
            config.kernel_dim,
            config.scales,
            init_scale=config.init_scale,
            decay=config.decay,
            mode=config.mode,
        )
        conv = GlobalConv(config.dim, kernel, bidirectional=config.bidirectional)
        act, glu = ACTIVATIONS[config.act](), config.post_act == "glu"
        self.layer = conv if config.linear else GlobalConvLayer(conv, act=act, norm=config.ln, glu=glu)

    @property
    def conv(self) -> GlobalConv:
        return self.layer if isinstance(self.layer, GlobalConv) else self.layer.conv

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


REFERENCE_NAMES = [
    (r"^layer\.norm\.norm\.m$", "layer.norm.shift"),
    (r"^layer\.norm\.norm\.s$", "layer.norm.scale"),
    (r"^layer\.output_linear(?:\.0)?\.", "layer.proj."),
]

REFERENCE_IGNORED = [r"\.multiplier$"]


def convert_reference(state: dict[str, Tensor], model: SGConv) -> dict[str, Tensor]:
    """One tensor of all pieces; their norm is the stored one, or that of these pieces if none was stored yet."""
    owner, kernel = "layer" if model.config.linear else "layer.conv", model.conv.kernel
    known = {"layer.D": f"{owner}.skip", "layer.decay": f"{owner}.kernel.decay"}
    numbered = [f"layer.kernel_list.{scale}" for scale in range(len(kernel.pieces))]
    if not all(name in state for name in numbered):
        return state
    pieces = torch.stack([state.pop(name) for name in numbered])
    norm, stored = state.pop("layer.kernel_norm", None), state.pop("layer.kernel_norm_initialized", False)
    if norm is None or not stored:
        norm = kernel.norm_of(pieces, state.get("layer.decay"))
    renamed = {known.get(name, name): value for name, value in state.items()}
    return renamed | {f"{owner}.kernel.pieces": pieces, f"{owner}.kernel.norm": norm}


def reference_outputs(model: SGConv, tokens: Tensor) -> dict[str, Tensor]:
    """The kernels, which no input has a part in."""
    return {"kernel": model.conv.both_ways(tokens.shape[1]), "kernel_norm": model.conv.kernel.norm}
