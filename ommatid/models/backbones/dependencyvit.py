"""DependencyViT: tokens send messages to those they depend on, and a tree of dependencies emerges.

"Visual Dependency Transformers: Dependency Tree Emerges from Reversed Attention" (arXiv 2304.03282).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.registry import register
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import ConvPosition
from ommatid.nn.residual import DropPath, LayerScale, Residual, stochastic_depth
from ommatid.nn.reversed_attention import ReversedAttention, keep_loudest


@dataclass(frozen=True, kw_only=True)
class DependencyViTConfig(Config):
    """Of the Lite form, `prune_layers` are the blocks, counted from 1, that each drop `prune_ratio` of all tokens."""

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    cpe_depth: int = 1
    prune_layers: tuple[int, ...] = ()
    prune_ratio: float = 0.16

    def check(self) -> None:
        require_positive(depth=self.depth)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        first, last = self.cpe_depth + 1, self.depth
        known = all(first <= layer <= last for layer in self.prune_layers)
        require(known, "prune_layers", self.prune_layers, f"blocks from {first} to {last}")
        most = 1 / max(len(self.prune_layers), 1)
        leaves_some = 0 <= self.prune_ratio < most or not self.prune_layers
        require(leaves_some, "prune_ratio", self.prune_ratio, f"from 0 up to, not including, {most:.3g}")

    def kept_share(self, block: int) -> float:
        """Of the tokens that reach a block, counted from 0."""
        layers = sorted(self.prune_layers)
        if block + 1 not in layers:
            return 1.0
        time = layers.index(block + 1) + 1
        return (1 - time * self.prune_ratio) / (1 - (time - 1) * self.prune_ratio)


class Messages(NamedTuple):
    """Tokens (B, N, C), their messages (B, N), and which patches they are (B, N)."""

    tokens: Tensor
    message: Tensor
    patch: Tensor


class DependencyBlock(nn.Module):
    """Reversed attention, perhaps pruning, and an MLP.

    Args:
        dim: C.
        heads, hidden: of the attention and the MLP.
        kept: share of the tokens that the MLP and later blocks get.
        positions: whether a depthwise convolution over the whole map follows.
        drop_path: stochastic depth rate.
    """

    def __init__(
        self, dim: int, heads: int, hidden: int, *, kept: float, positions: bool, drop_path: float
    ) -> None:  # fmt: skip
        super().__init__()
        self.kept = kept
        self.norm = LayerNorm(dim)
        self.attention = ReversedAttention(dim, heads)
        self.scale = LayerScale(dim, 1e-6)
        self.drop_path = DropPath(drop_path)
        self.channel = Residual(dim, MLP(dim, hidden), norm=LayerNorm, layer_scale=1e-6, drop_path=drop_path)
        self.position = ConvPosition(dim) if positions else None

    def forward(self, state: Messages, grid: tuple[int, int]) -> Messages:
        tokens, message, patch = state
        mixed, message = self.attention(self.norm(tokens), message)
        tokens = tokens + self.drop_path(self.scale(mixed))
        if self.kept < 1:
            count = int(self.kept * tokens.shape[1])
            tokens, message, patch = keep_loudest(tokens, message, patch, count)
        tokens = self.channel(tokens)
        if self.position is not None:
            tokens = self.position(tokens.unflatten(1, grid)).flatten(1, 2)
        return Messages(tokens, message, patch)

    def dependencies(self, state: Messages) -> Tensor:
        """(B, N, N): how much each token (row) hears of each other (column)."""
        return self.attention.dependencies(self.norm(state.tokens), state.message)


@register("dependencyvit", DependencyViTConfig)
class DependencyViT(Backbone):
    """Takes any image of at least one patch. Its map is zero where tokens were pruned."""

    config: DependencyViTConfig

    def __init__(self, config: DependencyViTConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.blocks = nn.ModuleList(
            DependencyBlock(
                config.dim,
                config.heads,
                int(config.dim * config.mlp_ratio),
                kept=config.kept_share(i),
                positions=i < config.cpe_depth,
                drop_path=rate,
            )
            for i, rate in enumerate(rates)
        )
        self.norm = LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.apply(init_linear_)

    def embed(self, image: Tensor) -> Tensor:
        tokens, message, _ = self.last(image)
        return (self.norm(tokens) * message[..., None]).mean(1)

    def tokens(self, image: Tensor) -> Tensor:
        return self.last(image).tokens

    def maps(self, image: Tensor) -> list[Tensor]:
        tokens, _, patch = self.last(image)
        grid = self._grid(image)
        whole = tokens.new_zeros(tokens.shape[0], grid[0] * grid[1], tokens.shape[-1])
        return [whole.scatter(1, patch[..., None].expand_as(tokens), tokens).unflatten(1, grid)]

    def last(self, image: Tensor) -> Messages:
        """What is behind the last block."""
        *_, last = self.steps(image)
        return last

    def steps(self, image: Tensor) -> Iterator[Messages]:
        """What enters the first block, and what is behind each."""
        tokens = self.stem(channels_last(image)).flatten(1, 2)
        patch = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        state = Messages(tokens, torch.ones_like(tokens[..., 0]), patch)
        yield state
        for block in self.blocks:
            state = block(state, self._grid(image))
            yield state

    def dependencies(self, image: Tensor) -> list[Tensor]:
        """(B, N, N) for each block: how much each token that reaches it (row) hears of each other (column)."""
        steps = zip(self.blocks, self.steps(image), strict=False)
        return [cast(DependencyBlock, block).dependencies(state) for block, state in steps]

    def _grid(self, image: Tensor) -> tuple[int, int]:
        return whole_patches((image.shape[-2], image.shape[-1]), self.config.patch_size)


def reference_outputs(model: DependencyViT, image: Tensor) -> dict[str, Tensor]:
    """Tokens and messages, loudest first where some were pruned, and every block's dependencies."""
    tokens, message, _ = model.last(image)
    if model.config.prune_layers:
        order = message.argsort(dim=1, descending=True)
        tokens, message = tokens.gather(1, order[..., None].expand_as(tokens)), message.gather(1, order)
    masks = {f"mask{i}": mask for i, mask in enumerate(model.dependencies(image))}
    return {"tokens": tokens, "message": message} | masks


VARIANTS = {
    "dependencyvit_tiny": DependencyViTConfig(dim=192),
    "dependencyvit_small": DependencyViTConfig(dim=384),
    "dependencyvit_lite_tiny": DependencyViTConfig(dim=192, prune_layers=(2, 5, 8, 11)),
    "dependencyvit_lite_small": DependencyViTConfig(dim=384, prune_layers=(2, 5, 8, 11)),
}

REFERENCE_NAMES = [
    (r"^patch_embed\.", "stem."),
    (r"\.attn\.message_controller\.fc1\.", ".attention.message_controller.0."),
    (r"\.attn\.message_controller\.fc2\.", ".attention.message_controller.2."),
    (r"\.attn\.", ".attention."),
    (r"\.norm1\.", ".norm."),
    (r"\.ls1\.", ".scale."),
    (r"\.peg\.proj\.", ".position.conv."),
    *BLOCK_NAMES,
]
