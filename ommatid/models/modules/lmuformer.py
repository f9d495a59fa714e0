"""LMUFormer: a transformer whose attention is a memory of one number a step, and the same with spiking neurons.

"LMUFormer: Low Complexity Yet Powerful Spiking Model With Legendre Memory Units" (arXiv 2402.04882). It is trained on
whole sequences and can run one step after another, in a state that does not grow: see `LMUFormer.stream`.

Inside, a sequence is a map of one row, (B, 1, N, C).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import tee
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import classifier
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.reference import join_layers, rename
from ommatid.models.registry import register
from ommatid.nn.conv import Conv2d, ConvNorm
from ommatid.nn.init import init_linear_
from ommatid.nn.legendre_memory import LegendreMemory
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.spiking import LIF
from ommatid.nn.streaming import Step, slid, step_of
from ommatid.ops.spiking import spiking_attention

STEPS = 2
"""The axis of a map along which neurons remember."""

KERNEL = (1, 3)
ATTENTION_SCALE = 0.25


@dataclass(frozen=True, kw_only=True)
class LMUFormerConfig(PartConfig):
    """`heads` are those of the variant "spiking_attention", which has no memory; `theta` is the memory's window.

    The memory is made for `sequence_length` steps. `threshold` is that of the neurons, where there are some.
    """

    variant: Literal["lmu", "spiking_lmu", "spiking_attention"] = "lmu"
    in_channels: int = 128
    dim: int = 256
    depth: int = 1
    heads: int = 16
    mlp_ratio: float = 4.0
    sequence_length: int = 128
    theta: float = 128.0
    num_classes: int = 35
    threshold: float = 1.0

    def check(self) -> None:
        require_positive(in_channels=self.in_channels, dim=self.dim, depth=self.depth, mlp_ratio=self.mlp_ratio)
        require_positive(sequence_length=self.sequence_length, theta=self.theta, threshold=self.threshold)
        require(self.num_classes >= 0, "num_classes", self.num_classes, "0 (no classifier) or more")
        if self.variant == "spiking_attention":
            require_divisible(self.dim, self.heads)

    @property
    def hidden(self) -> int:
        """Width inside the channel mixers."""
        return int(self.mlp_ratio * self.dim)

    def memory(self, order: int) -> LegendreMemory:
        return LegendreMemory(order, self.theta, self.sequence_length)

    def neurons(self, share: float = 1.0) -> LIF:
        """Neurons with that share of the threshold."""
        return LIF(share * self.threshold, axis=STEPS)


@register("lmuformer", LMUFormerConfig)
class LMUFormer(Model):
    """sequence (B, N, C_in) -> logits (B, num_classes), or the embedding where num_classes is 0.

    With a memory N is `sequence_length`. What neurons do can turn on the last digits, so that the spiking variants are
    computed in float32, whatever autocast says.

    Raises:
        ValueError: a sequence of another length.
    """

    config: LMUFormerConfig

    def __init__(self, config: LMUFormerConfig) -> None:
        super().__init__(config)
        spiking = config.variant != "lmu"
        self.embedding = spiking_embedding(config) if spiking else real_embedding(config)
        self.blocks = nn.Sequential(*(LMUFormerBlock(config) for _ in range(config.depth)))
        self.norm = nn.Sequential(BatchNorm2d(config.dim), config.neurons()) if spiking else nn.Identity()
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self._read(sequence).mean(1))

    def logits_sequence(self, sequence: Tensor) -> Tensor:
        """(B, N, C_in) -> (B, N, num_classes): the answer at every step, from what was seen up to it."""
        read = self._read(sequence)
        steps = torch.arange(1, read.shape[1] + 1, device=read.device)
        return self.head(read.cumsum(1) / steps[:, None])

    def embedded(self, sequence: Tensor) -> Tensor:
        """(B, N, C_in) -> (B, N, C): what the first block reads."""
        config, length = self.config, sequence.shape[1]
        fits = config.variant == "spiking_attention" or length == config.sequence_length
        require(fits, "length of the sequence", length, f"{config.sequence_length}, fixed by sequence_length")
        with self._precision(sequence):
            return self.embedding(sequence[:, None]).squeeze(1)

    def tokens(self, sequence: Tensor) -> Tensor:
        """(B, N, C_in) -> (B, N, C) after the last block, before the final norm."""
        embedded = self.embedded(sequence)
        with self._precision(sequence):
            return self.blocks(embedded[:, None]).squeeze(1)

    def _read(self, sequence: Tensor) -> Tensor:
        """(B, N, C): what the classifier reads at every step."""
        tokens = self.tokens(sequence)
        with self._precision(sequence):
            return self.norm(tokens[:, None]).squeeze(1)

    def _precision(self, sequence: Tensor) -> AbstractContextManager[object]:
        return nullcontext() if self.config.variant == "lmu" else torch.autocast(sequence.device.type, enabled=False)

    @torch.no_grad()
    def stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """`logits_sequence` as it comes: frames (B, C_in) -> logits (B, num_classes), each five frames later.

        For inference: the model must be in evaluation mode. What is remembered does not grow, and the number of frames
        is free.

        Raises:
            ValueError: the variant has no recurrent form.
        """
        variant = self.config.variant
        require(variant != "spiking_attention", "variant", variant, "'lmu' or 'spiking_lmu', for a stream of frames")
        run = step_of(nn.Sequential(*self.blocks, self.norm))
        embedded = self.embedding.stream(frame[:, None, None] for frame in frames)
        total = torch.zeros(())
        for count, token in enumerate(embedded, start=1):
            total = run(token)[:, 0, 0] + total
            yield self.head(total / count)


class FrameEmbedding(nn.Module):
    """Four convolutions, and a fifth that adds where each frame is: (B, 1, N, C_in) -> (B, 1, N, C).

    Args:
        convs: the four; all see one frame to either side.
        acts: what follows each of them.
        before: what precedes the fifth.
        dim: C.
    """

    def __init__(self, convs: list[nn.Module], acts: list[nn.Module], before: nn.Module, dim: int) -> None:
        super().__init__()
        self.convs, self.acts = nn.ModuleList(convs), nn.ModuleList(acts)
        self.before = before
        self.position = frame_conv(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        for conv, act in zip(self.convs, self.acts, strict=True):
            x = act(conv(x))
        return x + self.position(self.before(x))

    def stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """One (B, 1, 1, C) for each (B, 1, 1, C_in), five later."""
        for conv, act in zip(self.convs, self.acts, strict=True):
            frames = map(step_of(act), slid(conv, frames))
        frames, shortcut = tee(frames)
        positions = slid(self.position, map(step_of(self.before), frames))
        yield from (x + position for x, position in zip(shortcut, positions, strict=True))


def frame_conv(in_dim: int, dim: int) -> Conv2d:
    return Conv2d(in_dim, dim, KERNEL, padding=(0, 1), bias=False)


def real_embedding(config: LMUFormerConfig) -> FrameEmbedding:
    dims = [config.in_channels, *[config.dim] * 3]
    convs: list[nn.Module] = [frame_conv(in_dim, config.dim) for in_dim in dims]
    acts: list[nn.Module] = [nn.Sequential(nn.ReLU(), BatchNorm2d(config.dim)) for _ in dims]
    return FrameEmbedding(convs, acts, nn.Identity(), config.dim)


def spiking_embedding(config: LMUFormerConfig) -> FrameEmbedding:
    """Spikes between the convolutions, but the embedding itself is of real numbers."""
    dim, dims = config.dim, [config.in_channels, *[config.dim] * 2]
    convs = [*(ConvNorm(in_dim, dim, KERNEL) for in_dim in dims), frame_conv(dim, dim)]
    acts = [*(config.neurons() for _ in dims), nn.Identity()]
    return FrameEmbedding(convs, acts, nn.Sequential(BatchNorm2d(dim), config.neurons()), dim)


class LMUFormerBlock(nn.Module):
    """A token mixer, then a channel mixer, both added to what they read: (B, 1, N, C) -> (B, 1, N, C)."""

    def __init__(self, config: LMUFormerConfig) -> None:
        super().__init__()
        self.token = MIXERS[config.variant](config)
        self.channel = real_mlp(config) if config.variant == "lmu" else spiking_mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token(x)
        return x + self.channel(x)

    def step(self) -> Step:
        token, channel = step_of(self.token), step_of(self.channel)

        def run(x: Tensor) -> Tensor:
            x = x + token(x)
            return x + channel(x)

        return run


class LegendreMixer(nn.Module):
    """Writes one number a step to a Legendre memory, and reads memory and input together: (B, 1, N, C) -> the same.

    Args:
        before: what the input goes through first.
        write: C -> 1.
        memory: 1 -> order.
        keep: what the memories go through.
        read: order + C -> C.
    """

    def __init__(
        self, *, before: nn.Module, write: nn.Module, memory: LegendreMemory, keep: nn.Module, read: nn.Module, dim: int
    ) -> None:
        super().__init__()
        self.before, self.write, self.memory, self.keep, self.read = before, write, memory, keep, read
        self.proj = ConvNorm(dim, dim, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        memory = self.keep(self.memory(self.write(x)))
        return self.proj(self.read(torch.cat([memory, x], -1)))

    def step(self) -> Step:
        before, read, proj = step_of(self.before), step_of(self.read), step_of(self.proj)
        remember = step_of(nn.Sequential(self.write, self.memory, self.keep))

        def run(x: Tensor) -> Tensor:
            x = before(x)
            return proj(read(torch.cat([remember(x), x], -1)))

        return run


def real_mixer(config: LMUFormerConfig) -> LegendreMixer:
    dim = order = config.dim
    return LegendreMixer(
        before=nn.Identity(),
        write=nn.Sequential(nn.Linear(dim, 1), nn.ReLU()),
        memory=config.memory(order),
        keep=nn.Identity(),
        read=nn.Sequential(nn.Linear(order + dim, dim), nn.ReLU()),
        dim=dim,
    )


def spiking_mixer(config: LMUFormerConfig) -> LegendreMixer:
    dim, order = config.dim, 2 * config.dim
    return LegendreMixer(
        before=nn.Sequential(BatchNorm2d(dim), config.neurons(0.5)),
        write=nn.Sequential(ConvNorm(dim, 1, 1, bias=True), config.neurons()),
        memory=config.memory(order),
        keep=nn.Sequential(BatchNorm2d(order), config.neurons()),
        read=nn.Sequential(ConvNorm(order + dim, dim, 1, bias=True), config.neurons()),
        dim=dim,
    )


class SpikingSelfAttention(nn.Module):
    """Attention between spikes of all steps, past and future: (B, 1, N, C) -> (B, 1, N, C)."""

    def __init__(self, config: LMUFormerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.before = nn.Sequential(BatchNorm2d(dim), config.neurons())
        self.qkv = nn.Sequential(ConvNorm(dim, 3 * dim, 1), config.neurons())
        self.neurons = config.neurons(0.5)
        self.proj = ConvNorm(dim, dim, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.before(x)).squeeze(1).unflatten(-1, (3, self.heads, -1)).unbind(2)
        mixed = spiking_attention(query, key, value, scale=ATTENTION_SCALE)
        return self.proj(self.neurons(mixed[:, None]))


MIXERS = {"lmu": real_mixer, "spiking_lmu": spiking_mixer, "spiking_attention": SpikingSelfAttention}


def real_mlp(config: LMUFormerConfig) -> nn.Sequential:
    """It ends with a ReLU: the block only adds to what it read."""
    dim, hidden = config.dim, config.hidden
    return nn.Sequential(
        ConvNorm(dim, hidden, 1, bias=True, act=nn.GELU()), ConvNorm(hidden, dim, 1, bias=True, act=nn.ReLU())
    )


def spiking_mlp(config: LMUFormerConfig) -> nn.Sequential:
    dim, hidden = config.dim, config.hidden
    first = ConvNorm(dim, hidden, 1, bias=True)
    return nn.Sequential(BatchNorm2d(dim), config.neurons(), first, config.neurons(), nn.Linear(hidden, dim))


def reference_outputs(model: LMUFormer, sequence: Tensor) -> dict[str, Tensor]:
    """Also the answer at every step, and what goes into the blocks and comes out of them."""
    return {
        "embedded": model.embedded(sequence),
        "tokens": model.tokens(sequence),
        "logits_sequence": model.logits_sequence(sequence),
    }


VARIANTS = {
    "lmuformer": LMUFormerConfig(),
    "spiking_lmuformer": LMUFormerConfig(variant="spiking_lmu"),
    "lmuformer_spiking_attention": LMUFormerConfig(variant="spiking_attention"),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.conv_layers\.(\d)\.0\.", r"embedding.convs.\1."),
    (r"^patch_embed\.conv_layers\.(\d)\.3\.", r"embedding.acts.\1.1."),
    (r"^patch_embed\.rpe_conv\.", "embedding.position."),
    (r"^block\.(\d+)\.attn\.", r"blocks.\1.token."),
    (r"^block\.(\d+)\.mlp\.", r"blocks.\1.channel."),
    (r"\.token\.proj_conv\.", ".token.proj.conv."),
    (r"\.token\.proj_bn\.", ".token.proj.norm."),
]
REAL_NAMES = [
    (r"\.lmu\.W_u\.", ".write.0."),
    (r"\.lmu\.W_h\.", ".read.0."),
    (r"\.mlp\.fc1_conv\.", ".mlp.0.conv."),
    (r"\.mlp\.fc1_bn\.", ".mlp.0.norm."),
    (r"\.mlp\.fc2_conv\.", ".mlp.1.conv."),
    (r"\.mlp\.fc2_bn\.", ".mlp.1.norm."),
]
SPIKING_NAMES = [
    (r"^patch_embed\.proj_conv3\.", "embedding.convs.3."),
    (r"^patch_embed\.proj_bn3\.", "embedding.before.0."),
    (r"^patch_embed\.proj_(conv|bn)\.", r"patch_embed.proj_\g<1>0."),
    (r"^patch_embed\.proj_conv(\d)\.", r"embedding.convs.\1.conv."),
    (r"^patch_embed\.proj_bn(\d)\.", r"embedding.convs.\1.norm."),
    (r"\.lmu\.W_u\.", ".write.0.conv."),
    (r"\.lmu\.bn_u\.", ".write.0.norm."),
    (r"\.lmu\.bn_m\.", ".keep.0."),
    (r"\.lmu\.W_h\.", ".read.0.conv."),
    (r"\.lmu\.bn_h\.", ".read.0.norm."),
    (r"\.pre(?:v)?_bn\.", ".before.0."),
    (r"\.qkv_conv\.", ".qkv.0.conv."),
    (r"\.qkv_bn\.", ".qkv.0.norm."),
    (r"\.mlp\.fc1_bn\.", ".mlp.0."),
    (r"\.mlp\.fc1_conv\.", ".mlp.2.conv."),
    (r"\.mlp\.fc2_bn\.", ".mlp.2.norm."),
    (r"\.mlp\.fc2_conv\.", ".mlp.4."),
    (r"^head_bn\.", "norm.0."),
]
REFERENCE_IGNORED = [r"\.lmu\.(?:A|B|H|fft_H)$", r"\.num_batches_tracked$"]


def convert_reference(state: dict[str, Tensor], model: LMUFormer) -> dict[str, Tensor]:
    """Layers that have other places among real numbers than among spikes, and queries, keys and values as one."""
    names = REAL_NAMES if model.config.variant == "lmu" else SPIKING_NAMES
    for leaf in ("conv", "bn"):
        state = join_layers(state, (f"q_{leaf}", f"k_{leaf}", f"v_{leaf}"), f"qkv_{leaf}")
    return {rename(name, names): value for name, value in state.items()}
