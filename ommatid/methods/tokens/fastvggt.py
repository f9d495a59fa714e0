"""FastVGGT: attention over all tokens of many views, of which most are merged for its sake and given back.

"FastVGGT: Training-Free Acceleration of Visual Geometry Transformer" (arXiv 2509.02560), on a global block of VGGT
(arXiv 2503.11651).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig, require, require_divisible, require_positive
from ommatid.models.names import BLOCK_NAMES
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register, register_part
from ommatid.nn.block import Block
from ommatid.nn.feedforward import MLP
from ommatid.ops.attention import attend
from ommatid.ops.rotary import rotate_on_grid
from ommatid.ops.view_merging import SPECIAL, ViewMerging, destinations, match_views


@dataclass(frozen=True, kw_only=True)
class FastVGGTConfig(PartConfig):
    """`images` views with `grid` rows and columns of patches. The function "merge" reads these, `merge_ratio` and
    `protect`."""

    function: Literal["block", "merge"] = "block"
    images: int = 2
    grid: tuple[int, int] = (28, 37)
    merge_ratio: float = 0.9
    protect: bool = True
    dim: int = 1024
    heads: int = 16
    mlp_ratio: float = 4.0
    rope_frequency: float = 100.0
    global_blocks: int = 24

    def check(self) -> None:
        require_positive(images=self.images, grid=self.grid)
        require_divisible(self.dim, self.heads)
        require(0 <= self.merge_ratio <= 1, "merge_ratio", self.merge_ratio, "from 0 to 1")
        require(self.dim // self.heads % 4 == 0, "dim", self.dim, "4 channels a head, or a multiple of it")

    @property
    def tokens(self) -> int:
        return self.images * (SPECIAL + self.grid[0] * self.grid[1])

    def merging(self, metric: Tensor, choice: Tensor) -> ViewMerging:
        return match_views(metric, destinations(choice, self.grid), merge_ratio=self.merge_ratio, protect=self.protect)


class MultiViewAttention(nn.Module):
    """Attention among all tokens of all views, perhaps merged meanwhile: (B, N, C) -> (B, N, C)."""

    def __init__(self, dim: int, heads: int, rope_frequency: float) -> None:
        super().__init__()
        self.heads = heads
        self.rope_frequency = rope_frequency
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads)
        self.k_norm = nn.LayerNorm(dim // heads)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, positions: Tensor, merging: FastVGGTConfig, choice: Tensor | None) -> Tensor:
        """`positions` (N, 2): row and column. `choice`: of the destinations of a merging; None for none."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query = rotate_on_grid(self.q_norm(query), positions, self.rope_frequency)
        key = rotate_on_grid(self.k_norm(key), positions, self.rope_frequency)
        if choice is None:
            return self.proj(attend(query, key, value))
        matched = merging.merging(tokens, choice)
        fewer = (matched.merge(part.flatten(2)).unflatten(-1, (self.heads, -1)) for part in (query, key, value))
        return matched.unmerge(self.proj(attend(*fewer)))


@register("fastvggt", FastVGGTConfig)
class GlobalBlock(Procedure):
    """x (B, N, C), the tokens of all views, 5 special ones and the patches of each -> out (B, N, C).

    `choice` (images - 1, h // 2, w // 2), from 0 to 3, says which token of each 2x2 block others go into, as
    `drawn_destinations` draws it; without it nothing is merged.
    """

    config: FastVGGTConfig

    def __init__(self, config: FastVGGTConfig) -> None:
        super().__init__(config)
        self.block = Block(
            config.dim,
            MultiViewAttention(config.dim, config.heads, config.rope_frequency),
            MLP(config.dim, int(config.dim * config.mlp_ratio)),
            norm=partial(nn.LayerNorm, eps=1e-5),
            layer_scale=0.01,
        )

    def forward(self, x: Tensor, choice: Tensor | None = None) -> dict[str, Tensor]:  # type: ignore[override]
        require(x.shape[1] == self.config.tokens, "tokens", x.shape[1], f"{self.config.tokens}, of images and grid")
        return {"out": self.block(x, self.positions(x.device), self.config, choice)}

    def positions(self, device: torch.device) -> Tensor:
        """(N, 2): row and column of each patch, from 1; 0 for special tokens."""
        rows, columns = (torch.arange(1, side + 1, device=device) for side in self.config.grid)
        view = torch.cat([rows.new_zeros(SPECIAL, 2), torch.cartesian_prod(rows, columns)])
        return view.repeat(self.config.images, 1)


@register_part("fastvggt", "merge")
class Merging(Procedure):
    """metric (B, N, D), x (B, N, E) and choice -> merged (B, M, E) and unmerged (B, N, E)."""

    config: FastVGGTConfig

    def forward(self, metric: Tensor, x: Tensor, choice: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        matched = self.config.merging(metric, choice)
        merged = matched.merge(x)
        return {"merged": merged, "unmerged": matched.unmerge(merged)}


VARIANTS = {"fastvggt_global_block": FastVGGTConfig()}

REFERENCE_NAMES = [(r"^", "block."), *BLOCK_NAMES]
