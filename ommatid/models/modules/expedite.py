"""Expedite: a dense model whose later blocks read cluster centres instead of all tokens, without fine-tuning.

"Expediting Large-Scale Vision Transformer for Dense Prediction without Fine-tuning" (arXiv 2210.01035), on the image
encoder of Segment Anything (arXiv 2304.02643), which is this network with `location` -1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ommatid.models.backbone import channels_last
from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.model import Model
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.models.sizes import whole_patches
from ommatid.nn.block import Block
from ommatid.nn.conv import Conv2d
from ommatid.nn.embed import PatchEmbed
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import DecomposedPositionAttention
from ommatid.nn.mixers.windowed import mixed_in_windows
from ommatid.nn.norm import LayerNorm
from ommatid.nn.position import AbsolutePosition
from ommatid.ops.token_clustering import cluster, nearest_center, reconstruct
from ommatid.ops.windows import merge, pad_to_multiple, partition


@dataclass(frozen=True, kw_only=True)
class ExpediteConfig(PartConfig):
    """`location` is the number of the block, from 0, before which tokens are clustered; -1 stands for none.

    `clusters` are those of a window, a square number; the function "cluster" also takes rows and columns of them, and
    beside it reads `iterations`, `temperature` and `cluster_window`. "reconstruct" reads `k` and `temperature`.
    """

    function: Literal["encoder", "cluster", "reconstruct"] = "encoder"
    in_channels: int = 3
    image_size: int = 1024
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    out_channels: int = 256
    qkv_bias: bool = True
    window_size: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    location: int = -1
    clusters: int | tuple[int, int] = 100
    iterations: int = 5
    temperature: float = 0.01
    cluster_window: int = 5
    k: int = 20

    def check(self) -> None:
        require_positive(depth=self.depth, window_size=self.window_size, iterations=self.iterations, k=self.k)
        require_divisible(self.dim, self.heads)
        require_positive(patch_size=self.patch_size, clusters=self.clusters)
        square = not isinstance(self.clusters, int) or math.isqrt(self.clusters) ** 2 == self.clusters
        require(square, "clusters", self.clusters, "a square number, or two numbers")
        require(self.cluster_window % 2 == 1, "cluster_window", self.cluster_window, "an odd number")
        if self.function == "encoder":
            exists = -1 <= self.location < self.depth
            require(exists, "location", self.location, f"a block from 0 to {self.depth - 1}, or -1 for none")
            known = all(0 <= block < self.depth for block in self.global_blocks)
            require(known, "global_blocks", self.global_blocks, f"blocks from 0 to {self.depth - 1}")
            rows, columns = self.cells
            enough = self.location < 0 or self.k <= rows * columns
            require(enough, "k", self.k, f"at most as many as clusters ({rows * columns})")

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the centres."""
        if not isinstance(self.clusters, int):
            return self.clusters
        side = math.isqrt(self.clusters)
        return side, side


@register("expedite", ExpediteConfig)
class SegmentAnythingEncoder(Model):
    """(B, C_in, H, W) -> (B, out_channels, H / patch, W / patch), of any image of at least one patch."""

    config: ExpediteConfig
    no_decay = ("table", ".rows", ".columns")

    def __init__(self, config: ExpediteConfig) -> None:
        super().__init__(config)
        grid = whole_patches(config.image_size, config.patch_size)
        window = (config.window_size, config.window_size)
        self.stem = PatchEmbed(config.in_channels, config.dim, config.patch_size)
        self.position = AbsolutePosition(grid, config.dim)
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                SwitchedWindows(
                    DecomposedPositionAttention(
                        config.dim,
                        config.heads,
                        grid if i in config.global_blocks else window,
                        qkv_bias=config.qkv_bias,
                    )
                ),
                MLP(config.dim, int(config.dim * config.mlp_ratio)),
                norm=LayerNorm,
            )
            for i in range(config.depth)
        )
        self.neck = nn.Sequential(
            Conv2d(config.dim, config.out_channels, 1, bias=False),
            LayerNorm(config.out_channels),
            Conv2d(config.out_channels, config.out_channels, 3, padding=1, bias=False),
            LayerNorm(config.out_channels),
        )
        self.apply(init_linear_)

    def forward(self, image: Tensor) -> Tensor:
        *_, reconstructed = self.steps(image)
        return self.neck(reconstructed).permute(0, 3, 1, 2)

    def steps(self, image: Tensor) -> Iterator[Tensor]:
        """The map after each block, and, last, the whole map that the neck reads."""
        config = self.config
        features = self.position(self.stem(channels_last(image)))
        window, before, centers = (config.window_size, config.window_size), features, features
        for i, block in enumerate(self.blocks):
            if i == config.location:
                before, window = features, config.cells
                features = centers = self._clustered(features)
            features = block(features, None if i in config.global_blocks else window)
            yield features
        yield features if before.shape == features.shape else self._whole(before, centers, features)

    def _clustered(self, features: Tensor) -> Tensor:
        """Every window clustered by itself, and the centres of all as a map."""
        config, side = self.config, self.config.window_size
        padded = pad_to_multiple(features, (side, side))
        size = tuple(padded.shape[axis] // side * cells for axis, cells in zip((1, 2), config.cells, strict=True))
        windows = partition(padded, (side, side))
        centers = cluster(
            windows.flatten(0, 1).unflatten(1, (side, side)),
            config.cells,
            iterations=config.iterations,
            temperature=config.temperature,
            window=config.cluster_window,
        )
        return merge(centers.flatten(1, 2).unflatten(0, windows.shape[:2]), config.cells, (size[0], size[1]))

    def _whole(self, before: Tensor, centers: Tensor, features: Tensor) -> Tensor:
        """Every window made again from its own centres, and the map without its padding."""
        config, side = self.config, self.config.window_size
        padded = pad_to_multiple(before, (side, side))
        windows = partition(padded, (side, side))
        tokens = reconstruct(
            windows.flatten(0, 1),
            partition(centers, config.cells).flatten(0, 1),
            partition(features, config.cells).flatten(0, 1),
            k=config.k,
            temperature=config.temperature,
        )
        whole = merge(tokens.unflatten(0, windows.shape[:2]), (side, side), (padded.shape[1], padded.shape[2]))
        return whole[:, : before.shape[1], : before.shape[2]]


class SwitchedWindows(nn.Module):
    """A token mixer in windows of a size that comes with the map, or on all of it: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, features: Tensor, window: tuple[int, int] | None) -> Tensor:
        """`window`: rows and columns; None for the whole map."""
        if window is None:
            return self.mixer(features)
        mixed = mixed_in_windows(self.mixer, pad_to_multiple(features, window), window)
        return mixed[:, : features.shape[1], : features.shape[2]]


@register_part("expedite", "cluster")
class Clustering(Procedure):
    """x (B, H, W, C) -> centers (B, h, w, C) and labels (B, H W)."""

    config: ExpediteConfig

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        centers = cluster(
            x,
            config.cells,
            iterations=config.iterations,
            temperature=config.temperature,
            window=config.cluster_window,
        )
        return {"centers": centers, "labels": nearest_center(x, centers).float()}


@register_part("expedite", "reconstruct")
class Reconstruction(Procedure):
    """features (B, L, C), centers (B, L', C) and x (B, L', D) -> out (B, L, D)."""

    config: ExpediteConfig

    def forward(self, features: Tensor, centers: Tensor, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"out": reconstruct(features, centers, x, k=self.config.k, temperature=self.config.temperature)}


def reference_outputs(model: SegmentAnythingEncoder, image: Tensor) -> dict[str, Tensor]:
    """The maps before clustering, after the last block, and before the neck."""
    *blocks, reconstructed = model.steps(image)
    maps = {f"block{i}": features for i, features in enumerate(blocks)} | {"reconstructed": reconstructed}
    maps["features"] = model.neck(reconstructed)
    return {name: features.permute(0, 3, 1, 2) for name, features in maps.items()}


SAM_SIZES = {
    "b": ExpediteConfig(),
    "l": ExpediteConfig(dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "h": ExpediteConfig(dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}
VARIANTS = {f"sam_vit_{size}": config for size, config in SAM_SIZES.items()} | {
    f"sam_vit_h_{location}_{clusters}": SAM_SIZES["h"].replace(location=location, clusters=clusters)
    for location, clusters in ((18, 121), (14, 100), (8, 100), (8, 81), (6, 81))
}

REFERENCE_NAMES = [
    (r"^pos_embed$", "position.table"),
    (r"^patch_embed\.", "stem."),
    (r"\.rel_pos_h$", ".rows"),
    (r"\.rel_pos_w$", ".columns"),
    (r"\.mlp\.lin(\d)\.", r".mlp.fc\1."),
    *BLOCK_NAMES,
    (r"\.token\.inner\.", ".token.inner.mixer."),
]
