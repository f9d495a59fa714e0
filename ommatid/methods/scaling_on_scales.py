"""S2: features of several scales out of one model, that sees the larger ones in tiles of the size it knows.

"When Do We Not Need Larger Vision Models?" (arXiv 2403.13043).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import require_patches, whole_patches
from ommatid.nn.block import Block
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import Attention
from ommatid.nn.tokens import TokenSequence
from ommatid.ops.chessboard import merge_squares, split_squares


def multiscale_features(
    model: Callable[[Tensor], Tensor],
    image: Tensor,
    sizes: Sequence[int],
    *,
    tile_size: int | None = None,
    output: int = 0,
    prefix_tokens: int = 0,
    one_by_one: bool = False,
) -> Tensor:
    """What a model says about an image at k sizes, side by side: k times the channels, as many tokens as at one size.

    Nothing is trained: the model may stay as it is. Its cost grows with the number of tiles.

    Args:
        model: images (n, 3, h, h) -> tokens (n, P + g g, D), such as a ViT's `tokens`, or maps (n, D, h', h').
        image: (B, 3, H, H). A picture larger than what the model knows is best given as it is, with smaller sizes.
        sizes: sides that the image is resampled to.
        tile_size: the largest side that the model is shown, H where None: of larger ones, the fewest tiles that are not
            larger. That the tiles have the size the model was made for is up to the caller.
        output: number of the size whose map says how large all maps become, from 0.
        prefix_tokens: P, such as 1 for a class token; they are averaged over the tiles.
        one_by_one: the model is shown one tile of every image at a time, which takes less memory.

    Returns:
        (B, P + S S, k D) for tokens, (B, k D, S, S) for maps.

    Raises:
        ValueError: the image is not square, a size does not split into tiles, or tokens are not those of a square.
    """
    height, width = image.shape[2], image.shape[3]
    require(height == width, "image size", (height, width), "a square")
    require_positive(sizes=tuple(sizes), tile_size=height if tile_size is None else tile_size)
    require(0 <= output < len(sizes), "output", output, f"the number of one of the {len(sizes)} sizes, from 0")
    prefixes, maps, of_tokens = [], [], False
    for size in sizes:
        splits = math.ceil(size / (height if tile_size is None else tile_size))
        tiles = split_squares(_resampled(image, size), splits)
        answer = torch.cat([model(tile) for tile in tiles.split(len(image))]) if one_by_one else model(tiles)
        of_tokens = answer.dim() == 3
        if of_tokens:
            prefix, answer = _prefix_and_map(answer, prefix_tokens)
            prefixes.append(prefix.unflatten(0, (splits * splits, -1)).mean(0))
        else:
            require(prefix_tokens == 0, "prefix_tokens", prefix_tokens, "0 for a model that gives maps")
        maps.append(merge_squares(answer, splits))
    side = (maps[output].shape[2], maps[output].shape[3])
    joined = torch.cat([F.adaptive_avg_pool2d(features.float(), side).to(features.dtype) for features in maps], dim=1)
    return torch.cat([torch.cat(prefixes, dim=-1), joined.flatten(2).mT], dim=1) if of_tokens else joined


def _resampled(image: Tensor, size: int) -> Tensor:
    resized = F.interpolate(image.float(), size=(size, size), mode="bicubic", align_corners=False)
    return resized.to(image.dtype)


def _prefix_and_map(tokens: Tensor, prefix_tokens: int) -> tuple[Tensor, Tensor]:
    """(n, P + g g, D) -> (n, P, D) and (n, D, g, g)."""
    patches = tokens.shape[1] - prefix_tokens
    side = math.isqrt(max(patches, 0))
    require(side > 0 and side * side == patches, "prefix_tokens", prefix_tokens, "what leaves a square of tokens")
    return tokens[:, :prefix_tokens], tokens[:, prefix_tokens:].mT.unflatten(2, (side, side))


@dataclass(frozen=True, kw_only=True)
class TiledModelConfig(PartConfig):
    """What the wrapper is tried on: a small ViT without a last norm, or two convolutions, which read `dim` only."""

    kind: Literal["vit", "conv"] = "vit"
    image_size: int = 224
    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0
    class_token: bool = True

    def check(self) -> None:
        require_positive(dim=self.dim)
        if self.kind == "vit":
            require_positive(depth=self.depth)
            require_divisible(self.dim, self.heads)
            require_patches(self.image_size, self.patch_size)

    def build(self) -> nn.Module:
        return TiledViT(self) if self.kind == "vit" else TiledConv(self.dim)


class TiledViT(nn.Module):
    """(B, 3, H, W) -> all tokens (B, [1 +] N, C)."""

    def __init__(self, config: TiledModelConfig) -> None:
        super().__init__()
        self.stem = PatchEmbed(3, config.dim, config.patch_size)
        grid = whole_patches(config.image_size, config.patch_size)
        self.sequence = TokenSequence(grid, config.dim, class_token=config.class_token)
        hidden = int(config.dim * config.mlp_ratio)
        self.blocks = nn.Sequential(
            *(
                Block(config.dim, Attention(config.dim, config.heads), MLP(config.dim, hidden))
                for _ in range(config.depth)
            )
        )
        self.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(self.sequence(self.stem(channels_last(image))))


class TiledConv(nn.Sequential):
    """(B, 3, H, W) -> (B, C, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, dim: int) -> None:
        first, second = (nn.Conv2d(width, dim, 3, stride=2, padding=1) for width in (3, dim))
        super().__init__(first, nn.GELU(), second)


@dataclass(frozen=True, kw_only=True)
class ScalingOnScalesConfig(PartConfig):
    """`image_sizes`, where given, take the place of `scales`, which are truncated to whole pixels. `splits` is read by
    the function "split_merge" only, which reads nothing else."""

    function: Literal["multiscale", "split_merge"] = "multiscale"
    scales: tuple[float, ...] = (1.0, 2.0)
    image_sizes: tuple[int, ...] | None = None
    max_split_size: int | None = None
    resize_output_to: int = 0
    prefix_tokens: int = 0
    split_forward: bool = False
    backbone: dict[str, Any] = field(default_factory=dict)
    splits: int = 2

    def check(self) -> None:
        require_positive(scales=self.scales, image_sizes=self.image_sizes or (1,), splits=self.splits)
        require_positive(max_split_size=1 if self.max_split_size is None else self.max_split_size)
        count = len(self.scales if self.image_sizes is None else self.image_sizes)
        require(0 <= self.resize_output_to < count, "resize_output_to", self.resize_output_to, f"0 to {count - 1}")
        require(self.prefix_tokens >= 0, "prefix_tokens", self.prefix_tokens, "0 or more")
        TiledModelConfig.from_dict(self.backbone)

    def sizes(self, side: int) -> list[int]:
        """What an image of this side is resampled to."""
        return [int(side * scale) for scale in self.scales] if self.image_sizes is None else list(self.image_sizes)


@register("s2_scaling_on_scales", ScalingOnScalesConfig)
class MultiscaleFeatures(Procedure):
    """image (B, 3, H, H) -> features, as `multiscale_features`."""

    config: ScalingOnScalesConfig

    def __init__(self, config: ScalingOnScalesConfig) -> None:
        super().__init__(config)
        self.model = TiledModelConfig.from_dict(config.backbone).build()

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        features = multiscale_features(
            self.model,
            image,
            config.sizes(image.shape[2]),
            tile_size=config.max_split_size,
            output=config.resize_output_to,
            prefix_tokens=config.prefix_tokens,
            one_by_one=config.split_forward,
        )
        return {"features": features}


@register_part("s2_scaling_on_scales", "split_merge")
class SplitMerge(Procedure):
    """image (B, C, n h, n w) -> tiles (n n B, C, h, w), and merged again (B, C, n h, n w)."""

    config: ScalingOnScalesConfig

    def forward(self, image: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        tiles = split_squares(image, self.config.splits)
        return {"tiles": tiles, "merged": merge_squares(tiles, self.config.splits)}


REFERENCE_NAMES = [
    (r"\.patch_embed\.", ".stem.proj."),
    (r"\.pos_embed$", ".sequence.position"),
    (r"\.cls_token$", ".sequence.class_token.token"),
    (r"\.conv1\.", ".0."),
    (r"\.conv2\.", ".2."),
    (r"\.(qkv|proj)\.(weight|bias)$", r".attn.\1.\2"),
    (r"\.stem\.attn\.", ".stem."),
    (r"\.(fc[12])\.", r".mlp.\1."),
    *BLOCK_NAMES,
]
