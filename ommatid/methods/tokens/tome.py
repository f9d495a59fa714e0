"""ToMe: a ViT that merges tokens which are alike, with or without having been trained for it.

"Token Merging: Your ViT But Faster" (arXiv 2210.09461).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.backbone import Backbone, channels_last, classifier
from ommatid.models.config import Config, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.norm import LayerNorm
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.tokens import TokenSequence
from ommatid.nn.trunks.merging import MergingTrunk, merging_schedule
from ommatid.ops.token_merging import (
    match_bipartite,
    match_groups,
    match_random,
    merge_mean,
    merge_weighted,
    sources,
    special_tokens_first,
    unmerge,
)


@dataclass(frozen=True, kw_only=True)
class ToMeConfig(Config):
    """The network reads all but `k`, `layers` and `function`; a list of `r` has an entry for each block.

    The functions "matching" and "random" read `r` and the special tokens, "kth" reads `k`, "schedule" reads `layers`,
    `r` and `inflection`.
    """

    function: Literal["vit", "matching", "kth", "random", "schedule"] = "vit"
    image_size: int | tuple[int, int] = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    class_token: bool = True
    distill_token: bool = False
    prop_attn: bool = True
    pool: Literal["token", "sized_mean"] = "token"
    r: int | tuple[int, ...] = 0
    inflection: float = 0.0
    k: int = 2
    layers: int = 12

    def check(self) -> None:
        require_positive(depth=self.depth, layers=self.layers)
        require_divisible(self.dim, self.heads)
        require_patches(self.image_size, self.patch_size)
        fewest = min(self.r, default=0) if isinstance(self.r, tuple) else self.r
        require(fewest >= 0, "r", self.r, "0 or more tokens")
        require(-1 <= self.inflection <= 1, "inflection", self.inflection, "from -1 to 1")
        if self.function == "vit":
            has_token = self.class_token or not (self.distill_token or self.pool == "token")
            require(has_token, "class_token", self.class_token, "true, for this readout or with a distillation token")
            reads_mean = self.distill_token and self.pool == "sized_mean"
            require(not reads_mean, "distill_token", self.distill_token, "false with sized_mean")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of whole patches."""
        return whole_patches(self.image_size, self.patch_size)

    @property
    def special(self) -> int:
        """Tokens in front of the patches."""
        return int(self.class_token) + int(self.distill_token)


@register("tome", ToMeConfig)
class ToMeViT(Backbone):
    """A plain ViT whose blocks merge tokens. Takes any image of at least one patch.

    Its map gives every patch the token that it went into. With a distillation token, two classifiers read the two
    tokens and their answers are averaged; the embedding is the mean of the tokens.
    """

    config: ToMeConfig
    no_decay = ("position", "class_token.token")

    def __init__(self, config: ToMeConfig) -> None:
        super().__init__(config)
        self.channels, self.strides = (config.dim,), (config.patch_size,)
        (rates,) = stochastic_depth(config.drop_path_rate, [config.depth])
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.sequence = TokenSequence(
            config.grid, config.dim, class_token=config.class_token, distillation_token=config.distill_token
        )
        blocks = [
            Block(
                config.dim,
                Attention(config.dim, config.heads, qkv_bias=config.qkv_bias),
                MLP(config.dim, int(config.dim * config.mlp_ratio)),
                norm=LayerNorm,
                drop_path=rate,
            )
            for rate in rates
        ]
        schedule = merging_schedule(config.depth, config.r, config.inflection)
        self.blocks = MergingTrunk(blocks, schedule, special=config.special, prop_attn=config.prop_attn)
        self.norm = LayerNorm(config.dim)
        self.head = classifier(config.dim, config.num_classes)
        self.distilled = classifier(config.dim, config.num_classes) if config.distill_token else None
        self.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        if self.distilled is None:
            return self.head(self.embed(image))
        label, teacher = self._read_out(image).unbind(1)
        return (self.head(label) + self.distilled(teacher)) / 2

    def embed(self, image: Tensor) -> Tensor:
        if self.config.pool == "token":
            return self._read_out(image).mean(1)
        return self.norm(self.tokens(image)[:, self.config.special :].mean(1))

    def maps(self, image: Tensor) -> list[Tensor]:
        return [self.tokens(image)[:, self.config.special :].unflatten(1, self._grid(image))]

    def tokens(self, image: Tensor) -> Tensor:
        return self.blocks(self._sequence(image), self._grid(image))

    def _read_out(self, image: Tensor) -> Tensor:
        """(B, special, C): the special tokens, normed."""
        return self.norm(self.blocks.leading(self._sequence(image), self.config.special))

    def _sequence(self, image: Tensor) -> Tensor:
        return self.sequence(self.stem(channels_last(image)))

    def _grid(self, image: Tensor) -> tuple[int, int]:
        return whole_patches((image.shape[-2], image.shape[-1]), self.config.patch_size)


class Matching(Procedure):
    """What the matchings have in common: values and metric in, merged values out."""

    config: ToMeConfig

    def outputs(self, x: Tensor, size: Tensor, place: Tensor, length: int) -> dict[str, Tensor]:
        x = x[:, : place.shape[1]]
        merged, total = merge_weighted(x, size[:, : place.shape[1]], place, length)
        mean = merge_mean(x, place, length)
        return {"merged": merged, "size": total, "merged_mean": mean, "source": sources(place, length)}


@register_part("tome", "matching")
class BipartiteMatching(Matching):
    """x (B, N, C), metric (B, N, D), size (B, N, 1), to which 2 is added -> merged (B, M, C) and what belongs to it."""

    def forward(self, x: Tensor, metric: Tensor, size: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        assert isinstance(config.r, int)
        place, length = match_bipartite(
            metric, config.r, class_token=config.class_token, distillation_token=config.distill_token
        )
        merges = length < metric.shape[1]
        ordered = special_tokens_first(place, length) if config.distill_token and merges else place
        outputs = self.outputs(x, 2 + size, ordered, length)
        # The published way back knows nothing of the place in front that the distillation token was given.
        return outputs | {"unmerged": unmerge(outputs["merged"], place)}


@register_part("tome", "kth")
class GroupMatching(Matching):
    """x (B, N, C) and metric (B, N, D) -> merged (B, N // k, C) and what belongs to it."""

    def forward(self, x: Tensor, metric: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        outputs = self.outputs(x, torch.ones_like(x[..., :1]), *(matched := match_groups(metric, self.config.k)))
        return outputs | {"unmerged": unmerge(outputs["merged"], matched[0])}


@register_part("tome", "random")
class RandomMatching(Matching):
    """x (B, N, C), metric (B, N, D) and noise (B, N) -> merged (B, N - r, C) and what belongs to it."""

    def forward(self, x: Tensor, metric: Tensor, noise: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        assert isinstance(self.config.r, int)
        place, length = match_random(metric, self.config.r, noise.flatten(1))
        outputs = self.outputs(x, torch.ones_like(x[..., :1]), place, length)
        return outputs | {"unmerged": unmerge(outputs["merged"], place)}


@register_part("tome", "schedule")
class Schedule(Procedure):
    """Takes no inputs; gives the schedule (layers)."""

    config: ToMeConfig

    def forward(self) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        return {"schedule": torch.tensor(merging_schedule(config.layers, config.r, config.inflection)).float()}


def reference_outputs(model: nn.Module, **inputs: Tensor) -> dict[str, Tensor]:
    """What is left after the last block, how many patches are in it, and which."""
    assert isinstance(model, ToMeViT)
    merged = model.blocks.merged(model._sequence(inputs["image"]))
    tokens = merged.tokens
    batch, count, _ = tokens.shape
    place = torch.arange(count).expand(batch, -1) if merged.place is None else merged.place
    size = torch.ones(batch, count, 1) if merged.size is None else merged.size
    return {"tokens": tokens, "size": size, "source": sources(place, count)}


VARIANTS = {
    "deit_tiny_r13": ToMeConfig(dim=192, heads=3, r=13),
    "deit_small_r13": ToMeConfig(dim=384, heads=6, r=13),
    "vit_base_mae_r16": ToMeConfig(dim=768, heads=12, r=16),
    "vit_large_mae_r8": ToMeConfig(dim=1024, heads=16, depth=24, r=8),
    "vit_huge_mae_r7": ToMeConfig(dim=1280, heads=16, depth=32, patch_size=14, r=7),
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "sequence.position"),
    (r"^patch_embed\.", "stem."),
    (r"^fc_norm\.", "norm."),
    (r"^head_dist\.", "distilled."),
    *BLOCK_NAMES,
]


def convert_reference(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Joins the special tokens."""
    state = dict(state)
    special = [state.pop(name) for name in ("cls_token", "dist_token") if name in state]
    return state | ({"sequence.class_token.token": torch.cat(special, dim=1)} if special else {})
