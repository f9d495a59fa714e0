"""Orchid: gates around a global convolution whose kernel is partly static and partly made from the input.

"Orchid: Flexible and Data-Dependent Convolution for Sequence Modeling" (arXiv 2402.18508).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ommatid.models.config import PartConfig, require, require_positive
from ommatid.models.model import Model
from ommatid.models.registry import register
from ommatid.nn.implicit_filter import position_features
from ommatid.nn.mixers import AdaptiveGlobalConv
from ommatid.ops.refusal import require_length


@dataclass(frozen=True, kw_only=True)
class OrchidConfig(PartConfig):
    """As of `AdaptiveGlobalConv`. `frequency_conv` is read by the "correlation" conditioning; "absolute" has it."""

    dim: int = 192
    max_length: int = 196
    filter_dim: int = 128
    position_dim: int = 33
    inner_layers: int = 1
    frequency_init: float = 10.0
    short_kernel: int = 5
    transform: Literal["fft", "fft_ortho", "dct"] = "dct"
    conditioning: Literal["absolute", "correlation"] = "absolute"
    frequency_conv: bool = True
    conditioning_kernel: int = 3
    residual_conv: bool = True

    def check(self) -> None:
        require_positive(
            dim=self.dim, max_length=self.max_length, filter_dim=self.filter_dim, short_kernel=self.short_kernel
        )
        paired = self.position_dim % 2 == 1 and self.position_dim >= 3
        require(paired, "position_dim", self.position_dim, "an odd number from 3 on")
        require(self.inner_layers >= 0, "inner_layers", self.inner_layers, "0 or more")
        centred = self.conditioning_kernel % 2 == 1 and self.conditioning_kernel > 0
        require(centred, "conditioning_kernel", self.conditioning_kernel, "a positive odd number")


@register("orchid", OrchidConfig)
class Orchid(Model):
    """tokens (B, N, C) -> features (B, N, C), N at most `max_length`."""

    config: OrchidConfig

    def __init__(self, config: OrchidConfig) -> None:
        super().__init__(config)
        self.mixer = AdaptiveGlobalConv(
            config.dim,
            config.max_length,
            filter_dim=config.filter_dim,
            position_dim=config.position_dim,
            inner_layers=config.inner_layers,
            frequency_init=config.frequency_init,
            short_kernel=config.short_kernel,
            transform=config.transform,
            conditioning=config.conditioning,
            frequency_conv=config.frequency_conv,
            conditioning_kernel=config.conditioning_kernel,
            residual_conv=config.residual_conv,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        length, longest = tokens.shape[1], self.config.max_length
        require_length(length <= longest, length, f"up to {longest}, max_length")
        return self.mixer(tokens)


REFERENCE_NAMES = [
    (r"^in_linear\.", "in_proj."),
    (r"^out_linear\.", "proj."),
    (r"^conv1d_short\.", "short_conv."),
    (r"^fixed_conv\.", "static."),
    (r"^fixed_conv_res\.", "residual."),
    (r"\.pos_emb\.z$", ".kernel.positions"),
    (r"\.implicit_filter\.1\.freq$", ".kernel.frequency"),
    (
        r"\.implicit_filter\.(\d+)\.(weight|bias)$",
        lambda match: f".kernel.network.layers.{int(match[1]) // 2}.{match[2]}",
    ),
    (r"^(static|residual)\.bias$", r"\1.skip"),
    (r"^conv_kernel_nn\.nn_model\.", "adaptive.over_time."),
    (r"^conv_kernel_nn\.nn_model(?:2|_frq)\.", "adaptive.over_bins."),
    (r"^conv_kernel_nn\.nn_model_k\.", "adaptive.key."),
    (r"^conv_kernel_nn\.nn_model_q\.", "adaptive.query."),
    (r"\.conv1d_ls\.0\.", ".conv."),
    (r"\.norm_ls\.0\.norm_conv_kernel\.", ".norm."),
    (r"^", "mixer."),
]

REFERENCE_IGNORED = [
    r"\.implicit_filter\.(?!1\.)\d+\.freq$",  # that of the first sine once more
    r"\.pos_emb\.t$",
    r"\.modulation\.deltas$",
]


def reference_outputs(model: Orchid, tokens: Tensor) -> dict[str, Tensor]:
    config, mixer = model.config, model.mixer
    kernel = mixer.adaptive_kernel(tokens)
    outputs = {
        "static_kernel": mixer.static.kernel(tokens.shape[1]),
        "position_init": position_features(config.max_length, config.position_dim),
    }
    if kernel.is_complex():
        return outputs | {"adaptive_real": kernel.real, "adaptive_imag": kernel.imag}
    return outputs | {"adaptive_real": kernel}
