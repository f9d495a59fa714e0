"""The vision transformer that is searched, what it costs, and how it shrinks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ommatid.methods.pruning.once_for_both.gather import gather_
from ommatid.methods.pruning.once_for_both.modules import (
    AttentionSearch,
    Searchable,
    SearchAttention,
    SearchMLP,
    SearchPatchEmbed,
)
from ommatid.methods.pruning.once_for_both.reconstruction import hidden_patches, reconstruction_loss

ATTENTION_NORM, OTHER_NORM = 4e-4, 1e-4
"""Weights of the scores' sums in the losses."""


class SearchBlock(nn.Module):
    """(B, N, D) -> (B, N, D). While the embedding is searched, the residual starts from the normed tokens."""

    def __init__(self, dim: int, heads: int, hidden: int, search: AttentionSearch) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.attn = SearchAttention(dim, heads, search)
        self.mlp = SearchMLP(dim, hidden)

    def forward(self, x: Tensor, *, normed_residual: bool) -> Tensor:
        for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
            normed = norm(x)
            x = (normed if normed_residual else x) + branch(normed)
        return x


class SearchViT(nn.Module):
    """A DeiT all of whose widths are searched: image (B, 3, S, S) -> logits (B, classes).

    Args:
        grid: patches along a side. search: what is searched of attention.
    """

    def __init__(
        self,
        *,
        grid: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        num_classes: int,
        search: AttentionSearch = "joint",
    ) -> None:
        super().__init__()
        self.grid, self.patch_size, self.dense_dim = grid, patch_size, dim
        self.patch_embed = SearchPatchEmbed(patch_size, dim)
        self.cls_token, self.mask_token = (nn.Parameter(0.02 * torch.randn(1, 1, dim)) for _ in range(2))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + grid**2, dim))
        self.alpha_patch = nn.Parameter(torch.rand(1, 1))
        self.blocks: Any = nn.ModuleList(SearchBlock(dim, heads, hidden, search) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        self.decoder = nn.Sequential(nn.Conv2d(dim, 3 * patch_size**2, 1), nn.PixelShuffle(patch_size))
        self.dense_gflops = self._gflops(
            torch.tensor(float(dim)), [torch.tensor(float(dim))] * depth, [torch.tensor(float(hidden))] * depth
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.tokens(image)[:, 0])

    def tokens(self, image: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, 1 + N, D) after the last norm; patches that are `hidden` (B, N) are replaced by the mask token."""
        scale = self.patch_embed.multiplier().flatten()
        x = self.patch_embed(image) * scale + self.pos_embed[:, 1:] * scale
        if hidden is not None:
            x = x * (1 - hidden[..., None]) + hidden[..., None] * self.mask_token * scale
        first = (self.cls_token + self.pos_embed[:, :1]) * scale
        x = torch.cat([first.expand(x.shape[0], -1, -1), x], 1)
        normed_residual = self._embedding_is_soft()
        for block in self.blocks:
            x = block(x, normed_residual=normed_residual)
        return self.norm(x)

    def with_reconstruction(self, image: Tensor, noise: Tensor, keep_ratio: float) -> tuple[Tensor, Tensor]:
        """Logits of the image with hidden patches, and the loss () of what the decoder makes of those.

        noise: (B, N), uniform; the patches of the lowest are kept.
        """
        hidden = hidden_patches(noise, keep_ratio)
        tokens = self.tokens(image, hidden)
        answer = self.decoder(tokens[:, 1:].mT.unflatten(2, (self.grid, self.grid)))
        pixels = F.interpolate(hidden.view(-1, 1, self.grid, self.grid), scale_factor=self.patch_size)
        return self.head(tokens[:, 0]), reconstruction_loss(answer, image, pixels)

    def searchables(self) -> Iterator[Searchable]:
        return (module for module in self.modules() if isinstance(module, Searchable))

    def weigh_importance(self, weight: float) -> None:
        """Sets the weight of importance against the mask, everywhere."""
        for module in self.searchables():
            module.importance_weight = weight

    def losses(self) -> dict[str, Tensor]:
        """The one-hot losses of all choices, by kind: each ()."""
        attention = [block.attn.choice.one_hot_loss(ATTENTION_NORM) for block in self.blocks]
        mlp = [block.mlp.choice.one_hot_loss(OTHER_NORM) for block in self.blocks]
        embedding = self.patch_embed.choice.one_hot_loss(OTHER_NORM)
        return {"attn": torch.stack(attention).sum(), "mlp": torch.stack(mlp).sum(), "embed": embedding}

    def gflops(self) -> Tensor:
        """Of one image, by the sums of the masks: (), differentiable in every alpha. The class token is left out."""
        masks = [self.patch_embed.choice.mask().sum()]
        attention = [block.attn.units() for block in self.blocks]
        return self._gflops(masks[0], attention, [block.mlp.choice.mask().sum() for block in self.blocks])

    def flops_loss(self, target_gflops: float) -> Tensor:
        return ((self.gflops() - target_gflops) / self.dense_gflops).square()

    def _gflops(self, dim: Tensor, attention: list[Tensor], hidden: list[Tensor]) -> Tensor:
        patches, classes = self.grid**2, self.head.out_features
        total = 3 * self.patch_size**2 * patches * dim + dim * classes
        for block, units, wide in zip(self.blocks, attention, hidden, strict=True):
            total = total + 2 * patches * len(block.norm1.weight)
            total = total + patches * (4 * dim * units + 3 * units + dim + 2 * patches * units)
            total = total + 6 * block.attn.heads * patches**2
            total = total + patches * (2 * dim * wide + dim + wide)
        return total / 1e9

    def _embedding_is_soft(self) -> bool:
        choice = self.patch_embed.choice
        if choice.finished:
            return False
        mask = choice.mask()
        return bool(((mask > 0) & (mask < 1)).any())

    def compress(self, threshold: float = 0.2, optimizer: Optimizer | None = None) -> None:
        """One closing step of every choice; tensors of the whole network shrink to what is still open."""
        for block in self.blocks:
            block.attn.compress(threshold, optimizer)
            block.mlp.compress(threshold, optimizer)
        embedding = self.patch_embed
        if embedding.choice.close(threshold):
            kept = embedding.choice.cut(embedding.importance_weight, optimizer)
            if kept is not None:
                embedding.keep(*kept, optimizer=optimizer)
                self._keep_channels(kept[1].flatten(), optimizer)

    def _keep_channels(self, units: Tensor, optimizer: Optimizer | None) -> None:
        """Of the embedding, everywhere behind the patches."""
        for name in ("cls_token", "mask_token", "pos_embed"):
            gather_(self, name, units, 2, optimizer)
        norms = [self.norm, *(norm for block in self.blocks for norm in (block.norm1, block.norm2))]
        for norm in norms:
            gather_(norm, "weight", units, 0, optimizer)
            gather_(norm, "bias", units, 0, optimizer)
        for block in self.blocks:
            for layer in (block.attn.qkv, block.mlp.fc1):
                gather_(layer, "weight", units, 1, optimizer)
            for layer in (block.attn.proj, block.mlp.fc2):
                gather_(layer, "weight", units, 0, optimizer)
                gather_(layer, "bias", units, 0, optimizer)
        gather_(self.head, "weight", units, 1, optimizer)
        gather_(self.decoder[0], "weight", units, 1, optimizer)
