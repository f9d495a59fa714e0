"""What OneFormer's queries are held against in training: texts that say what is in the image.

"OneFormer: One Transformer to Rule Universal Image Segmentation" (arXiv 2211.06220).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather

from ommatid.models.config import require
from ommatid.nn.activation import QuickGELU
from ommatid.nn.block import Block
from ommatid.nn.causal_attention import CausalAttention
from ommatid.nn.feedforward import MLP

HEAD_DIM = 64
LARGEST_SCALE = 100.0
"""Of the likenesses, whatever has been learned."""


class TextEncoder(nn.Module):
    """Texts (..., L) of integers -> (..., W), read where the largest of them is, the first one of several.

    The transformer of CLIP (arXiv 2103.00020), which marks the end of a text by its largest integer.

    Args:
        vocab_size: integers are below it.
        length: the longest L.
        dim: W, a multiple of 64.
        depth: number of blocks.
    """

    def __init__(self, vocab_size: int, length: int, dim: int, depth: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, dim)
        self.position = nn.Parameter(torch.empty(length, dim).normal_(std=0.01))
        self.blocks = nn.Sequential(
            *(
                Block(dim, CausalAttention(dim, dim // HEAD_DIM), MLP(dim, 4 * dim, act=QuickGELU()))
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.words.weight, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, CausalAttention):
                nn.init.normal_(module.qkv.weight, std=dim**-0.5)
                nn.init.normal_(module.proj.weight, std=(2 * dim * depth) ** -0.5)
            if isinstance(module, MLP):
                nn.init.normal_(module.fc1.weight, std=(2 * dim) ** -0.5)
                nn.init.normal_(module.fc2.weight, std=(2 * dim * depth) ** -0.5)

    def forward(self, texts: Tensor) -> Tensor:
        ids, length = texts.flatten(0, -2), texts.shape[-1]
        require(length <= len(self.position), "length of the texts", length, f"up to {len(self.position)}")
        tokens = self.norm(self.blocks(self.words(ids) + self.position[:length]))
        ends = tokens[torch.arange(len(ids), device=ids.device), ids.argmax(1)]
        return ends.view(*texts.shape[:-1], -1)


def set_contrast(queries: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """How badly the queries of an image are told from those of others by its texts, and the reverse: a loss, ().

    All queries of an image are one vector, and so are all its texts; batches of several processes are one batch.

    Args:
        queries, texts: (B, Q, C) each.
        scale: of likenesses, (); at most 100 counts.
    """
    mine, theirs = (F.normalize(vectors.flatten(1), dim=-1) for vectors in (queries, texts))
    first = dist.get_rank() * len(mine) if _distributed() else 0
    label = torch.arange(len(mine), device=mine.device) + first
    factor = scale.clamp(max=LARGEST_SCALE)
    by_text = F.cross_entropy(factor * mine @ _of_all(theirs).T, label)
    return by_text + F.cross_entropy(factor * theirs @ _of_all(mine).T, label)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_all(vectors: Tensor) -> Tensor:
    """Those of all processes, in order."""
    return torch.cat(all_gather(vectors)) if _distributed() else vectors
