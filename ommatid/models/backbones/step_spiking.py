"""Spikformer and Spike-driven Transformer: vision transformers whose layers tell one another spikes only.

"STEP: A Unified Spiking Transformer Evaluation Platform for Fair and Reproducible Benchmarking" (arXiv 2505.11151);
"Spikformer: When Spiking Neural Network Meets Transformer" (arXiv 2209.15425); "Spike-driven Transformer" (arXiv
2307.01694), of which this is the first version.

An image is shown several steps long, and neurons keep their voltage from one step to the next. Maps have a leading axis
of T steps, (T, B, H, W, C), and so have tokens, (T, B, N, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.reference import join_layers, rename
from ommatid.models.registry import register
from ommatid.nn.block import Block
from ommatid.nn.conv import ConvNorm
from ommatid.nn.init import init_linear_and_conv_
from ommatid.nn.pool import MaxPool2d
from ommatid.nn.spiking import LIF
from ommatid.ops.spiking import spiking_attention

ATTENTION_THRESHOLD = 0.5
"""Of the neurons behind Spikformer's attention, whatever that of the others is."""


@dataclass(frozen=True, kw_only=True)
class StepSpikingConfig(Config):
    """`function` "network" is a model; "lif" and "energy" are procedures, see methods/spiking_energy.py.

    A network reads the fields down to `attention_scale` (Spikformer's) and `threshold`. "lif" reads `threshold`, `tau`,
    `alpha` and `gain`; "energy" reads `steps` and what follows `gain`: of each layer its multiply-adds in one step, and
    whether its input is spikes. The references drop no paths: `drop_path_rate` means nothing.
    """

    function: Literal["network", "lif", "energy"] = "network"
    variant: Literal["spikformer", "sdt"] = "spikformer"
    image_size: int = 32
    dim: int = 384
    depth: int = 4
    heads: int = 12
    mlp_ratio: float = 4.0
    steps: int = 4
    attention_scale: float = 0.125
    threshold: float = 1.0
    tau: float = 2.0
    alpha: float = 4.0
    gain: float = 1.0
    macs: tuple[int, ...] = ()
    spiking_input: tuple[bool, ...] = ()
    e_mac: float = 4.6
    e_ac: float = 0.9

    def check(self) -> None:
        require_positive(image_size=self.image_size, depth=self.depth, mlp_ratio=self.mlp_ratio, steps=self.steps)
        require_positive(attention_scale=self.attention_scale, threshold=self.threshold, alpha=self.alpha)
        require_positive(tau=self.tau)
        require(self.dim > 0 and self.dim % 8 == 0, "dim", self.dim, "a positive multiple of 8")
        require_divisible(self.dim, self.heads)
        paired = len(self.macs) == len(self.spiking_input)
        require(paired, "spiking_input", self.spiking_input, f"one entry for each of the {len(self.macs)} in macs")
        require_positive(macs=self.macs, e_mac=self.e_mac, e_ac=self.e_ac)

    @property
    def hidden(self) -> int:
        """Width inside the channel mixers."""
        return int(self.mlp_ratio * self.dim)


@register("step_spiking", StepSpikingConfig)
class SpikingTransformer(Backbone):
    """Images of any size. Maps and the embedding are means over the steps.

    What neurons do can turn on the last digits, so that everything is computed in float32, whatever autocast says.
    """

    config: StepSpikingConfig

    def __init__(self, config: StepSpikingConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (4,)
        parts = PARTS[config.variant]
        self.stem = parts.stem(config)
        self.blocks = nn.Sequential(
            *(Block(config.dim, parts.mixer(config), parts.mlp(config), norm=nn.Identity) for _ in range(config.depth))
        )
        self.neurons = parts.last(config)
        self.head = classifier(config.dim, config.num_classes)
        (self.stem if config.variant == "sdt" else self.head).apply(init_linear_and_conv_)
        self.blocks.apply(init_linear_and_conv_)

    def steps(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (T, B, H / 4, W / 4, C), both rounded up: the map after the last block."""
        with torch.autocast(image.device.type, enabled=False):
            features = self.stem(channels_last(image))
            return self.blocks(features.flatten(2, 3)).unflatten(2, features.shape[2:4])

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.steps(image).mean(0)]

    def embed(self, image: Tensor) -> Tensor:
        pooled = self.steps(image).flatten(2, 3).mean(2)
        return self.neurons(pooled).mean(0)

    def idle_parameters(self) -> set[str]:
        """The mixing of heads, which the Spike-driven Transformer has and does not use."""
        return {name for name, _ in self.named_parameters() if "talking_heads" in name}


class PerStep(nn.Module):
    """A layer without memory, applied to every step: (T, B, ...) -> (T, B, ...)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class SpikingStem(nn.Module):
    """Four convolutions, and a fifth that adds where things are: (B, H, W, C_in) -> (T, B, H / 4, W / 4, C).

    Args:
        layers: what follows the first convolution.
        position: the fifth and its neurons.
    """

    def __init__(self, config: StepSpikingConfig, layers: nn.Sequential, position: nn.Sequential) -> None:
        super().__init__()
        self.steps = config.steps
        self.first = ConvNorm(config.in_channels, config.dim // 8, 3)
        self.layers = layers
        self.position = position

    def forward(self, image: Tensor) -> Tensor:
        # The image is the same at every step, and so is what the first convolution makes of it.
        x = self.layers(self.first(image).expand(self.steps, -1, -1, -1, -1))
        return x + self.position(x)


def convs_of_stem(config: StepSpikingConfig, *behind_last: nn.Module) -> nn.Sequential:
    """From the first neurons of a stem to its second pool, which `behind_last` precedes."""
    dim = config.dim
    return nn.Sequential(
        LIF(config.threshold),
        PerStep(ConvNorm(dim // 8, dim // 4, 3)),
        LIF(config.threshold),
        PerStep(ConvNorm(dim // 4, dim // 2, 3)),
        LIF(config.threshold),
        PerStep(MaxPool2d(3, 2, 1)),
        PerStep(ConvNorm(dim // 2, dim, 3)),
        *behind_last,
        PerStep(MaxPool2d(3, 2, 1)),
    )


def spikformer_stem(config: StepSpikingConfig) -> SpikingStem:
    """Its map is sums of two spikes."""
    position = nn.Sequential(PerStep(ConvNorm(config.dim, config.dim, 3)), LIF(config.threshold))
    return SpikingStem(config, convs_of_stem(config, LIF(config.threshold)), position)


def spike_driven_stem(config: StepSpikingConfig) -> SpikingStem:
    """Its map is of real numbers, voltages for the neurons that read it."""
    position = nn.Sequential(LIF(config.threshold), PerStep(ConvNorm(config.dim, config.dim, 3)))
    return SpikingStem(config, convs_of_stem(config), position)


class SpikingSelfAttention(nn.Module):
    """Attention between spikes of a step, without a softmax, its answer spikes too: (T, B, N, C) -> (T, B, N, C).

    Spikformer (arXiv 2209.15425). Cost: T (4 N C^2 + 2 N d min(N, d) heads) additions, with d = C / heads.
    """

    def __init__(self, config: StepSpikingConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads, self.scale = config.heads, config.attention_scale
        self.qkv = nn.Sequential(ConvNorm(dim, 3 * dim, 1, bias=True), LIF(config.threshold))
        self.neurons = LIF(ATTENTION_THRESHOLD)
        self.proj = nn.Sequential(ConvNorm(dim, dim, 1, bias=True), LIF(config.threshold))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).flatten(0, 1).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = spiking_attention(query, key, value, scale=self.scale)
        return self.proj(self.neurons(mixed.unflatten(0, x.shape[:2])))


class SpikeDrivenSelfAttention(nn.Module):
    """Channels that keys and values agree on let the queries through: (T, B, N, C) -> (T, B, N, C).

    Spike-driven Transformer (arXiv 2307.01694): linear in the tokens, and without a multiplication between spikes.
    Cost: 4 T N C^2 additions. Heads make no difference; `talking_heads` would mix them and is not used.
    """

    def __init__(self, config: StepSpikingConfig) -> None:
        super().__init__()
        dim = config.dim
        self.before = LIF(config.threshold)
        self.qkv = nn.Sequential(ConvNorm(dim, 3 * dim, 1), LIF(config.threshold))
        self.neurons = LIF(config.threshold)
        self.proj = ConvNorm(dim, dim, 1, bias=True)
        self.talking_heads = nn.Conv1d(config.heads, config.heads, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.before(x)).chunk(3, -1)
        agreed = self.neurons((key * value).sum(2, keepdim=True))
        return self.proj(query * agreed)


def spikformer_mlp(config: StepSpikingConfig) -> nn.Sequential:
    """Spikes behind both layers."""
    expand, reduce = _mlp_layers(config)
    return nn.Sequential(expand, LIF(config.threshold), reduce, LIF(config.threshold))


def spike_driven_mlp(config: StepSpikingConfig) -> nn.Sequential:
    """Spikes in front of both layers."""
    expand, reduce = _mlp_layers(config)
    return nn.Sequential(LIF(config.threshold), expand, LIF(config.threshold), reduce)


def _mlp_layers(config: StepSpikingConfig) -> tuple[ConvNorm, ConvNorm]:
    dim, hidden = config.dim, config.hidden
    return ConvNorm(dim, hidden, 1, bias=True), ConvNorm(hidden, dim, 1, bias=True)


class Parts(NamedTuple):
    """What a variant is built of. `last`: what the means over tokens go through before that over steps."""

    stem: Callable[[StepSpikingConfig], SpikingStem]
    mixer: Callable[[StepSpikingConfig], nn.Module]
    mlp: Callable[[StepSpikingConfig], nn.Module]
    last: Callable[[StepSpikingConfig], nn.Module]


PARTS = {
    "spikformer": Parts(spikformer_stem, SpikingSelfAttention, spikformer_mlp, lambda _: nn.Identity()),
    "sdt": Parts(spike_driven_stem, SpikeDrivenSelfAttention, spike_driven_mlp, lambda config: LIF(config.threshold)),
}


def reference_outputs(model: SpikingTransformer, image: Tensor) -> dict[str, Tensor]:
    """Tokens of every step, (B, T, N, C); the reference of the Spike-driven Transformer lists them by columns."""
    maps = model.steps(image).transpose(0, 1)
    return {"tokens": (maps.transpose(2, 3) if model.config.variant == "sdt" else maps).flatten(2, 3)}


VARIANTS = {
    "spikformer_4_384": StepSpikingConfig(num_classes=10),
    "sdt_2_512": StepSpikingConfig(variant="sdt", dim=512, depth=2, heads=8, num_classes=10),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.proj_(conv|bn)\.", r"stem.first.\1."),
    (r"^patch_embed\.proj_(conv|bn)1\.", r"stem.layers.1.inner.\1."),
    (r"^patch_embed\.proj_(conv|bn)2\.", r"stem.layers.3.inner.\1."),
    (r"^patch_embed\.proj_(conv|bn)3\.", r"stem.layers.6.inner.\1."),
    (r"^patch_embed\.rpe\.", "stem.position."),
    (r"^block\.(\d+)\.attn\.", r"blocks.\1.token.inner."),
    (r"^block\.(\d+)\.mlp\.", r"blocks.\1.channel.inner."),
    (r"\.bn\.", ".norm."),
]
OWN_NAMES = {
    "spikformer": [
        (r"\.rpe_(conv|bn)\.", r".rpe.0.inner.\1."),
        (r"\.(qkv|proj)_linear\.", r".\1.0.conv."),
        (r"\.attn\.(qkv|proj)_bn\.", r".attn.\1.0.bn."),
        (r"\.fc1_linear\.", ".0.conv."),
        (r"\.fc2_linear\.", ".2.conv."),
        (r"\.fc1_bn\.", ".0.bn."),
        (r"\.fc2_bn\.", ".2.bn."),
    ],
    "sdt": [
        (r"\.rpe_(conv|bn)\.", r".rpe.1.inner.\1."),
        (r"\.qkv_(conv|bn)\.", r".qkv.0.\1."),
        (r"\.attn\.proj_(conv|bn)\.", r".attn.proj.\1."),
        (r"\.fc_(conv|bn)1\.", r".1.\1."),
        (r"\.fc_(conv|bn)2\.", r".3.\1."),
    ],
}
REFERENCE_IGNORED = [r"\.num_batches_tracked$", r"lif\.threshold$", r"lif\.act_fun\.alpha$"]


def convert_reference(state: dict[str, Tensor], model: SpikingTransformer) -> dict[str, Tensor]:
    """Queries, keys and values as one layer, and layers that have other places between the neurons of each variant."""
    for leaf in ("linear", "conv", "bn"):
        state = join_layers(state, (f"q_{leaf}", f"k_{leaf}", f"v_{leaf}"), f"qkv_{leaf}")
    return {rename(name, OWN_NAMES[model.config.variant]): value for name, value in state.items()}
