"""What a modality looks like to the transformer, and what it is asked to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.methods.pretraining.pixels import patchify
from ommatid.models.config import PartConfig, require, require_positive
from ommatid.nn.sine_position import grid_sinusoids, sinusoids


@dataclass(frozen=True, kw_only=True)
class Modality(PartConfig):
    """What is known of a modality.

    type: "pixels" of an image, which are not asked for; "tokens" of an image; or a "sequence". id: a number of its own.
    vocab_size: of tokens. max_length: positions of a sequence. The budgets say how many tokens of each image of a
    batch are shown and asked for (None for all others), the lengths the same of each sequence.
    """

    name: str
    type: Literal["pixels", "tokens", "sequence"]
    id: int
    vocab_size: int = 0
    max_length: int = 0
    input_budget: tuple[int, ...] = ()
    target_budget: tuple[int | None, ...] = ()
    input_length: tuple[int, ...] = ()
    target_length: tuple[int, ...] = ()

    def check(self) -> None:
        require(bool(self.name) and "." not in self.name, "name", self.name, "a name without dots")
        require(self.id >= 0, "id", self.id, "0 or more")
        if self.type != "pixels":
            require_positive(vocab_size=self.vocab_size)
        if self.type == "sequence":
            require_positive(max_length=self.max_length)


class ModalityEmbedding(nn.Module):
    """Values of a modality -> contents (B, N, D), and where they are, (B, N, D): its place and its kind.

    Args:
        modality: which one.
        dim: D.
        grid: rows and columns of the patches of an image.
        patch_size: their side in pixels.
    """

    def __init__(self, modality: Modality, dim: int, grid: tuple[int, int], patch_size: int) -> None:
        super().__init__()
        self.modality, self.patch_size = modality, patch_size
        self.places: Tensor
        self.kind = nn.Parameter(torch.zeros(1, 1, dim))
        self.content: nn.Module
        if modality.type == "pixels":
            self.content = nn.Linear(3 * patch_size**2, dim, bias=False)
        else:
            padding = 0 if modality.type == "sequence" else None
            self.content = nn.Embedding(modality.vocab_size, dim, padding_idx=padding)
        if modality.type == "sequence":
            places = sinusoids(modality.max_length, dim)
        else:  # column by column, though patches come row by row, as in the reference
            places = grid_sinusoids(*grid, dim).transpose(0, 1).flatten(0, 1)
        self.register_buffer("places", places, persistent=False)
        nn.init.normal_(self.kind, std=0.02)

    def forward(self, values: Tensor) -> Tensor:
        """Contents."""
        return self.content(patchify(values, self.patch_size) if self.modality.type == "pixels" else values)

    def where(self, used: Tensor) -> Tensor:
        """Places and kind of tokens (B, N) of which only some are used. Those of a sequence are counted."""
        if self.modality.type != "sequence":
            return (self.places + self.kind).expand(used.shape[0], -1, -1)
        place = (used.cumsum(1) - 1).clamp_min(0)
        place = place.masked_fill(place >= len(self.places), 0)
        return self.places[place] * used.unsqueeze(-1) + self.kind


class ModalityTarget(nn.Module):
    """The decoder's side of a modality: what it says of a token, (n, D) -> logits (n, V); what it has said already.

    Args:
        modality: which one.
        dim: D.
        shared: whether what it has said is embedded by the weights of what it says.
    """

    def __init__(self, modality: Modality, dim: int, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.logits = nn.Linear(dim, modality.vocab_size, bias=False)
        own = modality.type == "sequence" and not shared
        self.token = nn.Embedding(modality.vocab_size, dim, padding_idx=0) if own else None

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(tokens)

    def embed(self, ids: Tensor) -> Tensor:
        """Token numbers (B, N) -> (B, N, D)."""
        return F.embedding(ids, self.logits.weight if self.token is None else self.token.weight, padding_idx=0)
