"""The transformer decoder of kMaX-DeepLab: queries are centres of clusters of pixels, moved as k-means moves them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.decoders.masked_attention import Prediction
from ommatid.nn.conv import ConvNorm
from ommatid.nn.norm import BatchNorm

EPS = 1e-3
DIM = 256
KEYS = 128
VALUES = 256
HEADS = 8
HIDDEN = 2048
MASK_DIM = 128
"""The published widths, the same in all variants."""


class MaskPredictor(nn.Module):
    """What each query is, from its class embedding, and where, from its mask embedding and a map.

    mask and class embedding (B, 1, Q, 256), map (B, H, W, C) -> class logits (B, Q, K + 1), mask logits (B, Q, H, W).

    Args:
        in_dim: C.
        num_classes: K.
    """

    def __init__(self, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            ConvNorm(in_dim, in_dim, 5, groups=in_dim, act=nn.GELU(), eps=EPS),
            ConvNorm(in_dim, DIM, 1, act=nn.GELU(), eps=EPS),
            ConvNorm(DIM, MASK_DIM, 1, bias=True, eps=EPS),
        )
        self.mask_head = ConvNorm(DIM, MASK_DIM, 1, eps=EPS)
        self.class_head = nn.Linear(DIM, num_classes + 1)
        self.mask_norm = BatchNorm(1, eps=EPS)
        self.void_prior = math.log(num_classes * 0.9 / (1 - 0.9))

    def forward(self, mask_embedding: Tensor, class_embedding: Tensor, features: Tensor) -> Prediction:
        pixels = F.normalize(self.pixels(features), dim=-1)
        kernels = self.mask_head(mask_embedding)[:, 0]
        masks = self.mask_norm(torch.einsum("bqc,bhwc->bqhw", kernels, pixels)[..., None])[..., 0]
        classes = self.class_head(class_embedding)[:, 0]
        return torch.cat([classes[..., :-1], classes[..., -1:] + self.void_prior], dim=-1), masks


class QuerySelfAttention(nn.Module):
    """Queries look at one another, scores batch-normed rather than scaled: (B, 1, Q, 512) -> (B, 1, Q, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.score_norm = nn.BatchNorm2d(HEADS, eps=EPS)
        self.norm = BatchNorm(VALUES, eps=EPS)

    def forward(self, qkv: Tensor) -> Tensor:
        parts = qkv[:, 0].split([KEYS, KEYS, VALUES], dim=-1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        weights = self.score_norm(query @ key.mT).softmax(-1)
        return F.gelu(self.norm((weights @ value).transpose(1, 2).flatten(2)[:, None]))


class KMeansLayer(nn.Module):
    """One step of k-means, between attention and an MLP: centres (B, 1, Q, 256), map (B, H, W, C) -> centres.

    Every pixel goes to the query whose mask is strongest there; a query moves by the sum of its pixels.
    """

    def __init__(self, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.query = ConvNorm(DIM, DIM, 1, act=nn.GELU(), eps=EPS)
        self.pixel = ConvNorm(in_dim, DIM, 1, act=nn.GELU(), eps=EPS)
        self.value = ConvNorm(DIM, VALUES, 1, eps=EPS)
        self.predictor = MaskPredictor(DIM, num_classes)
        self.cluster_norm = BatchNorm(VALUES, eps=EPS)
        self.cluster_proj = ConvNorm(VALUES, DIM, 1, eps=EPS, scale=0.0)
        self.qkv = ConvNorm(DIM, 2 * KEYS + VALUES, 1, eps=EPS)
        self.attention = QuerySelfAttention()
        self.proj = ConvNorm(VALUES, DIM, 1, eps=EPS, scale=0.0)
        self.fc1 = ConvNorm(DIM, HIDDEN, 1, act=nn.GELU(), eps=EPS)
        self.fc2 = ConvNorm(HIDDEN, DIM, 1, eps=EPS, scale=0.0)

    def forward(self, centres: Tensor, features: Tensor) -> tuple[Tensor, Prediction]:
        query, pixels = self.query(centres), self.pixel(F.gelu(features))
        prediction = self.predictor(query, query, pixels)
        clusters = sums_of_clusters(self.value(pixels), prediction[1])
        centres = centres + self.cluster_proj(self.cluster_norm(clusters))
        centres = F.gelu(centres + self.proj(self.attention(self.qkv(query))))
        return F.gelu(centres + self.fc2(self.fc1(centres))), prediction


def sums_of_clusters(values: Tensor, mask_logits: Tensor) -> Tensor:
    """Values (B, H, W, C) summed over the pixels whose strongest query it is: (B, Q, H, W) -> (B, 1, Q, C)."""
    owner = mask_logits.flatten(2).argmax(1)
    members = F.one_hot(owner, mask_logits.shape[1]).to(values.dtype)
    return (members.mT @ values.flatten(1, 2))[:, None]


class KMeansQueries(nn.Module):
    """Four maps, coarse to fine -> predictions inside each layer and at last, and the centres (B, 1, Q, 256).

    The layers look at the first three maps, those on the coarsest first; the last prediction is made on the finest map.

    Args:
        channels: of the four maps.
        depths: layers on each of the first three.
        num_queries: Q.
        num_classes: K.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int], num_queries: int, num_classes: int) -> None:
        super().__init__()
        self.levels = [level for level, depth in enumerate(depths) for _ in range(depth)]
        self.centres = nn.Parameter(nn.init.trunc_normal_(torch.empty(num_queries, DIM)))
        self.layers = nn.ModuleList(KMeansLayer(channels[level], num_classes) for level in self.levels)
        self.class_proj = ConvNorm(DIM, DIM, 1, act=nn.GELU(), eps=EPS)
        self.mask_proj = ConvNorm(DIM, DIM, 1, act=nn.GELU(), eps=EPS)
        self.predictor = MaskPredictor(channels[3], num_classes)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Prediction], Tensor]:
        centres = self.centres.expand(maps[0].shape[0], 1, -1, -1)
        predictions = []
        for level, layer in zip(self.levels, self.layers, strict=True):
            centres, prediction = layer(centres, maps[level])
            predictions.append(prediction)
        last = self.predictor(self.mask_proj(centres), self.class_proj(centres), maps[3])
        return [*predictions, last], centres


def full_size(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks of a layer, (B, Q, h, w), at the final size; corners stay corners where its height is odd."""
    return F.interpolate(mask_logits, size=size, mode="bilinear", align_corners=size[0] % 2 == 1)
