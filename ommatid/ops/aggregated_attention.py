"""Aggregated attention: every query sees the window around itself and a coarse summary of the map, in one softmax.

Source: "TransNeXt: Robust Foveal Visual Perception for Vision Transformers" (arXiv 2311.17132).

Windows are centred and cut off at the border of the map. To the weights of the window's keys, after the softmax, comes
a term of the query's own. The fast version cuts the map into tiles (ops/tiles.py), whose windows are dense products.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.tiles import MapTiles, map_tiles, take


def aggregated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    *,
    window_size: int,
    window_bias: Tensor,
    pooled_bias: Tensor,
    dynamic: Tensor,
) -> Tensor:
    """softmax over [window, pooled map] of the scores, plus `dynamic` in the window, times the values.

    Args:
        query, key, value: (B, H, W, heads, d); scores are plain products, so queries come scaled.
        pooled_key, pooled_value: (B, M, heads, d).
        window_size: K, odd.
        window_bias: (heads, K^2), added to the scores of the window, row by row.
        pooled_bias: (heads, H W, M), added to the scores of the pooled map.
        dynamic: (B, H, W, heads, K^2), added to the weights of the window.

    Returns:
        (B, H, W, heads, d).
    """
    batch, height, width, heads, channels = query.shape
    tiles = map_tiles((height, width), (window_size, window_size), (1, 1), "cut")
    (count, queries), keys = tiles.queries.shape, tiles.keys.shape[1]
    offsets = _window_offsets(tiles, window_size, query.device)

    tokens = take(query, tiles.queries)
    blocks = [take(features, tiles.keys).view(batch, heads, count, keys, channels) for features in (key, value)]
    near = tokens.view(batch, heads, count, queries, channels) @ blocks[0].mT
    near = near + F.pad(window_bias, (0, 1), value=float("-inf"))[:, offsets.flatten()].view(heads, *offsets.shape)
    far = tokens @ pooled_key.permute(0, 2, 3, 1)
    far = far + pooled_bias.index_select(1, torch.as_tensor(tiles.queries, device=query.device).flatten())

    weights = torch.cat([near.flatten(2, 3), far], dim=-1).softmax(-1)
    near, far = weights.split([keys, far.shape[-1]], dim=-1)
    near = near + _in_blocks(take(dynamic, tiles.queries), offsets)
    mixed = (near.view(batch, heads, count, queries, keys) @ blocks[1]).flatten(2, 3)
    mixed = mixed + far @ pooled_value.transpose(1, 2)
    slots = torch.as_tensor(tiles.slots, device=query.device)
    return mixed.index_select(2, slots).transpose(1, 2).unflatten(1, (height, width))


def aggregated_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    *,
    window_size: int,
    window_bias: Tensor,
    pooled_bias: Tensor,
    dynamic: Tensor,
) -> Tensor:
    """`aggregated_attention`, with the window of every query gathered."""
    height, width = query.shape[1:3]
    margin = window_size // 2

    def windows(features: Tensor) -> Tensor:
        """(B, H, W, heads, d) -> (B, H, W, heads, d, K^2), zeros outside the map."""
        padded = F.pad(features, (0, 0, 0, 0, margin, margin, margin, margin))
        return padded.unfold(1, window_size, 1).unfold(2, window_size, 1).flatten(-2)

    on_map = windows(torch.ones_like(query[:1, :, :, :1, :1])) > 0
    near = (query.unsqueeze(-2) @ windows(key)).squeeze(-2) + window_bias
    near = near.masked_fill(~on_map.squeeze(-2), float("-inf"))
    far = torch.einsum("byxhd,bmhd->byxhm", query, pooled_key)
    far = far + pooled_bias.unflatten(1, (height, width)).permute(1, 2, 0, 3)
    weights = torch.cat([near, far], dim=-1).softmax(-1)
    near, far = weights.split([window_size**2, far.shape[-1]], dim=-1)
    mixed = (windows(value) @ (near + dynamic).unsqueeze(-1)).squeeze(-1)
    return mixed + torch.einsum("byxhm,bmhd->byxhd", far, pooled_value)


def window_counts(size: tuple[int, int], window_size: int, device: torch.device) -> Tensor:
    """(H, W): how many tokens of the map are in the window of each."""
    rows, columns = (
        (torch.arange(side, device=device) + window_size // 2).clamp(max=side - 1)
        - (torch.arange(side, device=device) - window_size // 2).clamp(min=0)
        + 1
        for side in size
    )
    return rows[:, None] * columns


def _window_offsets(tiles: MapTiles, window_size: int, device: torch.device) -> Tensor:
    """(tiles, N, S): where in its window the query of each pair finds the key; window_size^2 where it doesn't."""
    vertical, horizontal = (torch.as_tensor(x, device=device) for x in (tiles.vertical, tiles.horizontal))
    vertical, horizontal = vertical[:, None, :, None, :, None], horizontal[None, :, None, :, None, :]
    outside = (vertical == window_size) | (horizontal == window_size)
    offsets = torch.where(outside, window_size**2, window_size * vertical + horizontal)
    return offsets.flatten(0, 1).flatten(1, 2).flatten(2, 3)


def _in_blocks(of_window: Tensor, offsets: Tensor) -> Tensor:
    """(B, heads, tiles N, K^2) by place in the window -> (B, heads, tiles N, S) by place in the block."""
    index = offsets.flatten(0, 1).expand(*of_window.shape[:2], -1, -1)
    return F.pad(of_window, (0, 1)).gather(-1, index)
