"""Semantic gathering and scattering: figure and ground each read a few tokens that sum up their own kind.

"Isomer: Isomerous Transformer for Zero-shot Video Object Segmentation" (arXiv 2308.06693).

Pixels of both kinds lie in one list of rows, figure before ground, image after image, so that images of a batch need no
loop however many pixels of either kind they have. Layers are a pair: their parameters have a first axis of two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.moe.experts import StackedLinear
from ommatid.ops.attention import attend
from ommatid.ops.grouped import grouped_linear

DROPOUT = 0.1
PAIR = 2
CONV_DEVIATION = 0.01
"""Of the weights that convolutions start with."""


class Scattered(NamedTuple):
    """Maps (B, H, W, C), (B, H, W, 1) and (B, H, W, C): frame and flow as one, how much figure each pixel is, and the
    first with what both kinds have read.
    """

    fused: Tensor
    heat: Tensor
    features: Tensor


class Kinds(NamedTuple):
    """R = B H W rows, and where they come from.

    order (R,): the pixel of each row. place (R,): the row of each pixel. ends (2,) int32: where the rows of each kind
    end; rows of no kind lie behind the ground's, and count as its. kind (R,): of each row, 0 for figure and 1 for
    ground. previous, following (R,): the same where the row before it, or behind it, is of its kind and image; else 2.
    """

    order: Tensor
    place: Tensor
    ends: Tensor
    kind: Tensor
    previous: Tensor
    following: Tensor

    def sorted(self, pixels: Tensor) -> Tensor:
        """(B, H W, C) -> rows (R, C)."""
        return pixels.flatten(0, 1).index_select(0, self.order)

    def unsorted(self, rows: Tensor, images: int) -> Tensor:
        """Rows (R, ...) -> (B, H W, ...)."""
        return rows.index_select(0, self.place).unflatten(0, (images, -1))


def kinds_of(kind: Tensor) -> Kinds:
    """From the kind of each pixel, (B, H W): 0 for figure, 1 for ground, 2 for neither."""
    images, pixels = kind.shape
    flat = kind.flatten()
    order = flat.argsort(stable=True)
    owner = (flat * images + torch.arange(images, device=kind.device).repeat_interleave(pixels))[order]
    apart, figures, of_row = owner[1:] != owner[:-1], (flat == 0).sum(), flat[order].clamp(max=1)
    return Kinds(
        order,
        order.argsort(),
        torch.stack([figures, torch.full_like(figures, flat.shape[0])]).int(),
        of_row,
        of_row.masked_fill(F.pad(apart, (1, 0), value=True), 2),
        of_row.masked_fill(F.pad(apart, (0, 1), value=True), 2),
    )


class PairNorm(nn.Module):
    """Layer norm with an own scale and shift for each kind: rows (R, C) -> (R, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(PAIR, dim))
        self.bias = nn.Parameter(torch.zeros(PAIR, dim))

    def forward(self, rows: Tensor, kinds: Kinds) -> Tensor:
        normed = F.layer_norm(rows, rows.shape[-1:])
        return torch.addcmul(self.bias.index_select(0, kinds.kind), normed, self.weight.index_select(0, kinds.kind))


class PairAttention(nn.Module):
    """Rows (R, C) that attend to the tokens (B, 2, K, C) of their image and kind: (R, C) -> (R, C).

    Cost: 2 (R + 2 B K) C^2 + 4 R K C multiply-adds: each row is shown both kinds' tokens, and looks at one's.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = StackedLinear(PAIR, dim, 3 * dim)
        self.proj = StackedLinear(PAIR, dim, dim)
        init_xavier_(self.qkv)
        init_xavier_(self.proj)

    def forward(self, rows: Tensor, tokens: Tensor, kinds: Kinds) -> Tensor:
        (images, _, count, dim), weight, bias = tokens.shape, self.qkv.weight, self.qkv.bias
        assert bias is not None
        query = grouped_linear(rows, weight[:, :dim], bias[:, :dim], kinds.ends)
        read = torch.einsum("bgkc,goc->bgko", tokens, weight[:, dim:]) + bias[:, None, dim:]
        key, value = read.flatten(1, 2).unflatten(-1, (2, self.heads, -1)).unbind(2)
        kind = kinds.unsorted(kinds.kind, images)
        own = torch.stack([kind == 0, kind == 1], -1).repeat_interleave(count, -1)[:, None]
        mixed = attend(kinds.unsorted(query, images).unflatten(-1, (self.heads, -1)), key, value, bias=own)
        return self.proj(kinds.sorted(mixed), kinds.ends)


class PairMLP(nn.Module):
    """An MLP that also sees the rows next to each of its image and kind: (R, C) -> (R, C).

    As published the middle is a 3x3 depthwise convolution of a map one pixel wide: of its kernel only the middle column
    counts. Cost: 2 R r C^2 multiply-adds, with r = hidden / C.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = StackedLinear(PAIR, dim, hidden)
        self.kernel = nn.Parameter(torch.randn(PAIR, hidden, 3, 3) * CONV_DEVIATION)
        self.bias = nn.Parameter(torch.zeros(PAIR, hidden))
        self.fc2 = StackedLinear(PAIR, hidden, dim)
        init_xavier_(self.fc1)
        init_xavier_(self.fc2)

    def forward(self, rows: Tensor, kinds: Kinds) -> Tensor:
        hidden = self.fc1(rows, kinds.ends)
        # The third of each table is for a neighbour of another kind or image: nothing.
        before, here, behind = F.pad(self.kernel[..., 1], (0, 0, 0, 0, 0, 1)).unbind(-1)
        mixed = torch.addcmul(self.bias.index_select(0, kinds.kind), hidden, here.index_select(0, kinds.kind))
        mixed[1:].addcmul_(hidden[:-1], before.index_select(0, kinds.previous[1:]))
        mixed[:-1].addcmul_(hidden[1:], behind.index_select(0, kinds.following[:-1]))
        return self.fc2(mixed.relu(), kinds.ends)


class PairLayer(nn.Module):
    """Rows read their tokens, then think: (R, C) -> (R, C); post-norm."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.attention_norm = PairAttention(dim, heads), PairNorm(dim)
        self.mlp, self.mlp_norm = PairMLP(dim, hidden), PairNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, rows: Tensor, tokens: Tensor, kinds: Kinds) -> Tensor:
        rows = self.attention_norm(rows + self.dropout(self.attention(rows, tokens, kinds)), kinds)
        return self.mlp_norm(rows + self.dropout(self.mlp(rows, kinds)), kinds)


class GatheringScattering(nn.Module):
    """Fuses the maps of a frame and of its flow, (B, H, W, C) each, by what is figure and what is ground in them.

    Args:
        dim: C.
        points: K, tokens that each kind is summed up by.
        threshold: a pixel is figure from this heat on, ground below 1 less this, and else left as it is. An image that
            has not both is left as it is.
        heads, hidden, depth: of the layers.
    """

    def __init__(self, dim: int, points: int, *, threshold: float, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.threshold = threshold
        self.fuse = nn.Linear(2 * dim, dim)
        self.heat = nn.Linear(dim, 1)
        self.figure_weights, self.ground_weights = nn.Linear(dim, points), nn.Linear(dim, points)
        self.apply(init_conv_)
        self.layers = nn.ModuleList(PairLayer(dim, heads, hidden) for _ in range(depth))

    def fused(self, frame: Tensor, flow: Tensor) -> Tensor:
        """Both maps as one, (B, H, W, C)."""
        return self.fuse(torch.cat([frame, flow], -1))

    def forward(self, frame: Tensor, flow: Tensor) -> Scattered:
        # In float32, whatever autocast says: what is near to the threshold would be decided by rounding.
        with torch.autocast(frame.device.type, enabled=False):
            fused = self.fused(frame, flow)
            heat = self.heat(fused).sigmoid()
        pixels, weight = fused.flatten(1, 2), heat.flatten(1, 2)
        kind = self._kind(weight.squeeze(-1))
        kinds, tokens = kinds_of(kind), self._tokens(pixels, weight)
        rows = kinds.sorted(pixels)
        for layer in self.layers:
            rows = layer(rows, tokens, kinds)
        read = torch.where(kind[..., None] < 2, kinds.unsorted(rows, kind.shape[0]), pixels)
        return Scattered(fused, heat, read.view(fused.shape))

    def _kind(self, heat: Tensor) -> Tensor:
        """(B, N): 0 for figure, 1 for ground, 2 for what is left as it is."""
        kind = torch.where(heat < 1 - self.threshold, 1, 2).masked_fill(heat >= self.threshold, 0)
        both = (kind == 0).any(1, keepdim=True) & (kind == 1).any(1, keepdim=True)
        return kind.masked_fill(~both, 2)

    def _tokens(self, pixels: Tensor, heat: Tensor) -> Tensor:
        """(B, 2, K, C): sums of the pixels, weighted by what each kind's layer makes of them, not normalised."""
        sides = (self.figure_weights, pixels * heat), (self.ground_weights, pixels * (1 - heat))
        return torch.stack([layer(side).mT @ side for layer, side in sides], 1)


def init_conv_(layer: nn.Module) -> None:
    """1x1 convolutions, which linear layers are here: weights from N(0, 0.01)."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.normal_(layer.weight, std=CONV_DEVIATION)


def init_xavier_(layer: StackedLinear) -> None:
    """Xavier-uniform weights of each of the two, biases 0."""
    for weight in layer.weight:
        nn.init.xavier_uniform_(weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
