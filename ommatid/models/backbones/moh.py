"""MoH: TransNeXt whose tokens choose their attention heads, as experts are chosen.

"MoH: Multi-Head Attention as Mixture-of-Head Attention" (arXiv 2410.11842), on TransNeXt (arXiv 2311.17132).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier, doubling_strides
from ommatid.models.backbones import transnext
from ommatid.models.backbones.transnext import NO_DECAY, TransNeXtConfig, transnext_mixer, transnext_stages
from ommatid.models.config import Config, require, require_divisible, require_stages
from ommatid.models.model import Model
from ommatid.models.registry import register, register_part
from ommatid.nn.block import pyramid
from ommatid.nn.init import init_conv_fan_out_, init_linear_
from ommatid.nn.mixture_of_heads import MixtureOfHeads

# Weight of the load-balance loss beside the task's.
BALANCE_WEIGHT = 0.01


@dataclass(frozen=True, kw_only=True)
class MoHConfig(Config):
    """`part` "network" has the fields of TransNeXt and, for each stage, `shared_heads` and the number of `routed_heads`
    that a token chooses. `part` "module" is one attention layer: `dim`, one number of `heads`, `resolution`,
    `pretrain_resolution`, `window_size`, `sr_ratio`, `shared_head`, `routed_head`. Both have `qkv_bias`.
    """

    part: Literal["network", "module"] = "network"
    image_size: int = 224
    pretrain_size: int | None = 224
    patch_size: int = 4
    window_sizes: tuple[int | None, ...] = (3, 3, 3, None)
    dims: tuple[int, ...] = (72, 144, 288, 576)
    heads: tuple[int, ...] | int = (3, 6, 12, 24)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    depths: tuple[int, ...] = (5, 5, 22, 5)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    shared_heads: tuple[int, ...] = (3, 6, 3, 4)
    routed_heads: tuple[int, ...] = (0, 0, 6, 12)
    qkv_bias: bool = True
    dim: int = 72
    resolution: tuple[int, int] = (56, 56)
    pretrain_resolution: tuple[int, int] = (56, 56)
    window_size: int | None = 3
    sr_ratio: int = 8
    shared_head: int = 2
    routed_head: int = 1

    def check(self) -> None:
        if self.part == "network":
            network, heads = self.network, self.network.heads
            require_stages(heads=heads, shared_heads=self.shared_heads, routed_heads=self.routed_heads)
            for numbers in zip(network.heads, self.shared_heads, self.routed_heads, strict=True):
                require_usable_heads(*numbers)
        else:
            self._check_module()

    def _check_module(self) -> None:
        require(isinstance(self.heads, int), "heads", self.heads, "one integer")
        assert isinstance(self.heads, int)
        require_divisible(self.dim, self.heads)
        require_usable_heads(self.heads, self.shared_head, self.routed_head)
        pretrain = self.pretrain_resolution
        require(min(pretrain) >= 2, "pretrain_resolution", pretrain, "at least 2 a side")
        pooled = 0 < self.sr_ratio <= min(self.resolution)
        require(pooled, "sr_ratio", self.sr_ratio, f"from 1 to the shorter side of the map ({min(self.resolution)})")
        odd = self.sr_ratio == 1 or (
            self.window_size is not None and self.window_size > 0 and self.window_size % 2 == 1
        )
        require(odd, "window_size", self.window_size, "an odd integer where sr_ratio is not 1")

    @property
    def network(self) -> TransNeXtConfig:
        """The network without gates."""
        require(not isinstance(self.heads, int), "heads", self.heads, "a list, one number for each stage")
        assert not isinstance(self.heads, int)
        return TransNeXtConfig(
            in_channels=self.in_channels,
            drop_path_rate=self.drop_path_rate,
            image_size=self.image_size,
            pretrain_size=self.pretrain_size,
            patch_size=self.patch_size,
            dims=self.dims,
            depths=self.depths,
            heads=self.heads,
            window_sizes=self.window_sizes,
            mlp_ratios=self.mlp_ratios,
            qkv_bias=self.qkv_bias,
            sr_ratios=self.sr_ratios,
        )


def require_usable_heads(heads: int, shared: int, routed: int) -> None:
    possible = 0 <= shared <= heads
    require(possible, "shared heads", shared, f"from 0 to the number of heads ({heads})")
    if shared == heads:
        require(routed == 0, "routed heads", routed, "0 where all heads are shared")
        require(heads > 1, "heads", heads, "2 or more where all heads are shared")
    else:
        others = heads - shared
        require(0 < routed <= others, "routed heads", routed, f"from 1 to the number of heads not shared ({others})")


@register("moh", MoHConfig)
class MoH(Backbone):
    """MoH-ViT. Takes the images that TransNeXt takes. Its training adds a load-balance loss of the routed heads."""

    config: MoHConfig
    no_decay = NO_DECAY

    def __init__(self, config: MoHConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = config.dims, doubling_strides(config.patch_size, len(config.dims))
        self.stages = transnext_stages(config.network, lambda stage: head_gate(config, stage))
        self.head = classifier(config.dims[-1], config.num_classes)
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)

    def maps(self, image: Tensor) -> list[Tensor]:
        return self._run(image, None)

    def embed(self, image: Tensor) -> Tensor:
        return self.maps(image)[-1].mean((1, 2))

    def with_auxiliary_loss(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the load-balance loss with its weight, the mean over blocks."""
        balance: list[Tensor] = []
        logits = self.head(self._run(image, balance)[-1].mean((1, 2)))
        return logits, BALANCE_WEIGHT * torch.stack(balance).mean() if balance else logits.new_zeros(())

    def _run(self, image: Tensor, balance: list[Tensor] | None) -> list[Tensor]:
        self.config.network.check_size("image size", (image.shape[-2], image.shape[-1]))
        return pyramid(self.stages, channels_last(image), balance)


def head_gate(config: MoHConfig, stage: int) -> MixtureOfHeads:
    heads = config.network.heads[stage]
    return MixtureOfHeads(config.dims[stage], heads, config.shared_heads[stage], config.routed_heads[stage])


@register_part("moh", "module")
class MoHAttention(Model):
    """One attention layer: tokens (B, N, C) -> features (B, N, C), for the N tokens of the config's resolution."""

    config: MoHConfig

    def __init__(self, config: MoHConfig) -> None:
        super().__init__(config)
        assert isinstance(config.heads, int)
        self.mixer = transnext_mixer(
            config.dim,
            config.heads,
            config.window_size,
            config.sr_ratio,
            size=config.resolution,
            pretrain_size=config.pretrain_resolution,
            qkv_bias=config.qkv_bias,
            gate=MixtureOfHeads(config.dim, config.heads, config.shared_head, config.routed_head),
        )
        self.apply(init_linear_)
        self.apply(init_conv_fan_out_)

    def forward(self, tokens: Tensor) -> Tensor:
        return self._run(tokens, None)

    def with_auxiliary_loss(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and the load-balance loss without a weight; 0 without routed heads."""
        balance: list[Tensor] = []
        features = self._run(tokens, balance)
        return features, balance[0] if balance else features.new_zeros(())

    def _run(self, tokens: Tensor, balance: list[Tensor] | None) -> Tensor:
        rows, columns = self.config.resolution
        count = tokens.shape[1]
        require(count == rows * columns, "number of tokens", count, f"{rows} * {columns}, fixed by resolution")
        return self.mixer(tokens.unflatten(1, (rows, columns)), balance).flatten(1, 2)


SMALL = MoHConfig()
BASE = SMALL.replace(
    dims=(96, 192, 384, 768),
    heads=(4, 8, 16, 32),
    depths=(5, 5, 23, 5),
    shared_heads=(4, 8, 4, 5),
    routed_heads=(0, 0, 8, 16),
)

VARIANTS = {
    "moh_transnext_small_75": SMALL,
    "moh_transnext_small_80": SMALL.replace(shared_heads=(3, 6, 3, 8)),
    "moh_transnext_base_50": BASE.replace(shared_heads=(2, 2, 2, 4), routed_heads=(2, 4, 6, 8)),
    "moh_transnext_base_75": BASE,
}

GATE_NAMES = [
    (r"(^|\.)wg\.", r"\1gate.route."),
    (r"(^|\.)wg_0\.", r"\1gate.divide."),
    (r"(^|\.)wg_1\.", r"\1gate.share."),
]

REFERENCE_NAMES = [*transnext.REFERENCE_NAMES, *GATE_NAMES]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """As for TransNeXt; the names of a single attention layer begin where those of the network end."""
    if isinstance(model, MoHAttention):
        return {f"mixer.{name.replace('norm.', 'pooled_norm.')}": value for name, value in state.items()}
    return transnext.convert_reference(state, model)


def reference_outputs(model: MoH | MoHAttention, **inputs: Tensor) -> dict[str, Tensor]:
    return {"balance_loss": model.with_auxiliary_loss(**inputs)[1].view(1)}
