"""Neighbourhood attention: every query attends to the K nearest keys along each axis of its map.

Source: "Neighborhood Attention Transformer" (arXiv 2204.07143) and "Dilated Neighborhood Attention Transformer"
(arXiv 2209.15001).

With dilation d a query sees only the positions of its own residue class modulo d, so a dilated axis is d undilated
ones. At a border the window is that of the nearest query whose window fits: always exactly K keys, no padding.

The fast version never gathers a window per query. It cuts each residue class into tiles of neighbouring queries, and
a tile attends densely to the one block of keys that covers all its windows, under a mask. A tile of T x T queries
reads (T + K - 1)^2 keys instead of T^2 K^2, in matrix products.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

IntArray = NDArray[np.int64]
PerAxis = int | Sequence[int]


def neighborhood_attention_1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kernel_size: int,
    dilation: int = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Neighbourhood attention over sequences, from tiles and dense matrix products.

    Args:
        query, key, value: (B, L, heads, d), with L >= kernel_size * dilation.
        kernel_size: number of neighbours K, odd.
        dilation: step between neighbours.
        bias: (heads, 2K - 1), added to the logits; entry K - 1 + r for a key r steps of the dilation after the query.
        scale: factor on the logits before the bias; d ** -0.5 by default.

    Returns:
        (B, L, heads, d).

    Raises:
        ValueError: on impossible sizes or shapes.
    """
    kernels, dilations = _checked((query, key, value), kernel_size, dilation, bias, ("length",))
    output = _tiled_attention(
        query.unsqueeze(1),
        key.unsqueeze(1),
        value.unsqueeze(1),
        (1, *kernels),
        (1, *dilations),
        None if bias is None else bias.unsqueeze(1),
        scale,
    )
    return output.squeeze(1)


def neighborhood_attention_2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kernel_size: PerAxis,
    dilation: PerAxis = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Neighbourhood attention over maps, from tiles and dense matrix products.

    Args:
        query, key, value: (B, H, W, heads, d), with H and W >= kernel_size * dilation of their axis.
        kernel_size: number of neighbours K per axis, odd; one number, or (vertical, horizontal).
        dilation: step between neighbours; one number, or (vertical, horizontal).
        bias: (heads, 2K - 1, 2K - 1), added to the logits; entry K - 1 + r along each axis for a key r steps of
            the dilation after the query.
        scale: factor on the logits before the bias; d ** -0.5 by default.

    Returns:
        (B, H, W, heads, d).

    Raises:
        ValueError: on impossible sizes or shapes.
    """
    kernels, dilations = _checked((query, key, value), kernel_size, dilation, bias, ("height", "width"))
    return _tiled_attention(query, key, value, kernels, dilations, bias, scale)


def neighborhood_attention_1d_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kernel_size: int,
    dilation: int = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """`neighborhood_attention_1d`, with the K keys and values of every query gathered."""
    (kernel,), (step,) = _checked((query, key, value), kernel_size, dilation, bias, ("length",))
    neighbors, relative = _neighbors(query.shape[1], kernel, step, query.device)
    keys, values = (x.transpose(1, 2)[:, :, neighbors] for x in (key, value))  # (B, heads, L, K, d)
    window_bias = None if bias is None else bias[:, relative]
    output = _window_attention(query.transpose(1, 2), keys, values, window_bias, scale)
    return output.transpose(1, 2)


def neighborhood_attention_2d_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    kernel_size: PerAxis,
    dilation: PerAxis = 1,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """`neighborhood_attention_2d`, with the K * K keys and values of every query gathered."""
    kernels, dilations = _checked((query, key, value), kernel_size, dilation, bias, ("height", "width"))
    rows, down = _neighbors(query.shape[1], kernels[0], dilations[0], query.device)
    columns, across = _neighbors(query.shape[2], kernels[1], dilations[1], query.device)
    rows, down = rows[:, None, :, None], down[:, None, :, None]  # over (H, W, K, K)
    keys, values = (  # (B, heads, H, W, K * K, d)
        x.permute(0, 3, 1, 2, 4)[:, :, rows, columns[:, None]].flatten(-3, -2) for x in (key, value)
    )
    window_bias = None if bias is None else bias[:, down, across[:, None]].flatten(-2)
    output = _window_attention(query.permute(0, 3, 1, 2, 4), keys, values, window_bias, scale)
    return output.permute(0, 2, 3, 1, 4)


def _neighbors(length: int, kernel: int, dilation: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of each position's neighbours, and their bias indices: both (length, kernel)."""
    position = torch.arange(length, device=device)[:, None]
    residue, rank = position % dilation, position // dilation
    group = (length - residue + dilation - 1) // dilation
    start = torch.minimum((rank - kernel // 2).clamp(min=0), group - kernel)
    neighbor = start + torch.arange(kernel, device=device)
    return neighbor * dilation + residue, neighbor - rank + kernel - 1


def _window_attention(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    """Attention of each query (..., d) to its own keys and values (..., neighbours, d)."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    logits = (keys @ (query * scale).unsqueeze(-1)).squeeze(-1)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return (logits.softmax(-1).unsqueeze(-2) @ values).squeeze(-2)


class _AxisTiles(NamedTuple):
    """How one axis is cut into tiles of `T` queries and their blocks of `S` keys.

    Tiles are as long as the longest residue class asks for, so the last of a class may repeat its last query, and
    the block of a short class its last key.
    """

    queries: IntArray  # (tiles, T), positions on the axis
    keys: IntArray  # (tiles, S), positions on the axis
    relative: IntArray  # (tiles, T, S), bias index of each pair; 2K - 1 where the key lies outside the query's window


class _MapTiles(NamedTuple):
    """How a map is cut into tiles of `N` queries and their blocks of `M` keys; positions count row by row."""

    queries: IntArray  # (tiles, N), positions on the map
    keys: IntArray  # (tiles, M), positions on the map
    slots: IntArray  # (H * W), where in the flattened `queries` each position is answered
    vertical: IntArray  # `_AxisTiles.relative` of the rows
    horizontal: IntArray  # and of the columns


def _axis_tiles(length: int, kernel: int, dilation: int, longest_tile: int) -> _AxisTiles:
    longest = -(-length // dilation)
    count = -(-longest // longest_tile)
    tile = -(-longest // count)
    span = min(tile + kernel - 1, longest)

    residue = np.arange(dilation)[:, None, None]
    group = (length - residue + dilation - 1) // dilation
    first_query = tile * np.arange(count)[:, None]
    query = np.minimum(first_query + np.arange(tile), group - 1)  # (dilation, count, tile), ranks in the residue class
    first_key = np.clip(first_query - kernel // 2, 0, np.maximum(group - span, 0))
    key = first_key + np.arange(span)  # (dilation, count, span)

    start = np.clip(query - kernel // 2, 0, group - kernel)[..., None]
    key_of_pair = key[:, :, None]
    inside = (start <= key_of_pair) & (key_of_pair < start + kernel)
    relative = np.where(inside, key_of_pair - query[..., None] + kernel - 1, 2 * kernel - 1)
    return _AxisTiles(
        queries=(query * dilation + residue).reshape(-1, tile),
        keys=(np.minimum(key, group - 1) * dilation + residue).reshape(-1, span),
        relative=relative.reshape(-1, tile, span),
    )


# NumPy tables and not tensors: a cached tensor would stay a fake one when the first call is a torch.export trace.
@lru_cache(maxsize=64)
def _map_tiles(size: tuple[int, int], kernels: tuple[int, ...], dilations: tuple[int, ...]) -> _MapTiles:
    rows, columns = (_axis_tiles(*axis) for axis in zip(size, kernels, dilations, _longest_tiles(kernels), strict=True))

    def positions(row: IntArray, column: IntArray) -> IntArray:
        position = row[:, None, :, None] * size[1] + column[:, None]
        return position.reshape(len(row) * len(column), -1)

    queries = positions(rows.queries, columns.queries)
    slots = np.empty(size[0] * size[1], dtype=np.int64)
    slots[queries.ravel()] = np.arange(queries.size)
    return _MapTiles(queries, positions(rows.keys, columns.keys), slots, rows.relative, columns.relative)


def _longest_tiles(kernels: tuple[int, ...]) -> tuple[int, ...]:
    """Longest tile along each axis: the fastest of 3 to 14 (in one dimension of 8 to 64), measured on a CPU.

    Short tiles read fewer keys only to mask them, long ones copy each key fewer times.
    """
    if 1 in kernels:
        return tuple(1 if kernel == 1 else 16 for kernel in kernels)
    return (4, 4) if max(kernels) <= 5 else (8, 8)


def _tiled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernels: tuple[int, ...],
    dilations: tuple[int, ...],
    bias: Tensor | None,
    scale: float | None,
) -> Tensor:
    batch, height, width, heads, channels = query.shape
    tiles = _map_tiles((height, width), kernels, dilations)
    if bias is None:
        bias = query.new_zeros(1, 2 * kernels[0] - 1, 2 * kernels[1] - 1)
    mask = _tile_mask(bias.to(query.dtype), tiles)

    # The tiles lie on one axis with the heads that have masks of their own: one mask serves the whole batch, uncopied.
    _, tiles_and_heads, queries, keys = mask.shape
    shared = batch * (heads // len(bias))
    output = F.scaled_dot_product_attention(
        _take(query, tiles.queries).view(shared, tiles_and_heads, queries, channels),
        _take(key, tiles.keys).view(shared, tiles_and_heads, keys, channels),
        _take(value, tiles.keys).view(shared, tiles_and_heads, keys, channels),
        attn_mask=mask,
        scale=scale,
    )
    output = output.reshape(batch, heads, tiles.queries.size, channels).transpose(1, 2)
    slots = torch.as_tensor(tiles.slots, device=query.device)
    return output.index_select(1, slots).view(query.shape)


def _take(x: Tensor, positions: IntArray) -> Tensor:
    """(B, H, W, heads, d) -> (B, heads, positions, d), contiguous."""
    index = torch.as_tensor(positions, device=x.device).flatten()
    return x.flatten(1, 2).transpose(1, 2).index_select(2, index)


def _tile_mask(bias: Tensor, tiles: _MapTiles) -> Tensor:
    """Bias of every pair of a tile, minus infinity outside the window: (1, heads * tiles, N, M)."""
    vertical, horizontal = (torch.as_tensor(x, device=bias.device) for x in (tiles.vertical, tiles.horizontal))
    with_outside = F.pad(bias, (0, 1, 0, 1), value=float("-inf"))
    pairs = with_outside.index_select(1, vertical.flatten()).index_select(2, horizontal.flatten())
    pairs = pairs.view(-1, *vertical.shape, *horizontal.shape).permute(0, 1, 4, 2, 5, 3, 6)
    return pairs.reshape(1, len(bias) * len(tiles.queries), tiles.queries.shape[1], tiles.keys.shape[1])


def _checked(
    inputs: tuple[Tensor, Tensor, Tensor],
    kernel_size: PerAxis,
    dilation: PerAxis,
    bias: Tensor | None,
    axes: tuple[str, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kernel size and dilation of every axis, once they are known to fit the inputs."""
    kernels = _per_axis("kernel_size", kernel_size, len(axes))
    dilations = _per_axis("dilation", dilation, len(axes))
    if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if any(step < 1 for step in dilations):
        raise ValueError(f"dilation must be at least 1, got {dilation}")
    query, key, value = inputs
    if query.dim() != len(axes) + 3 or not query.shape == key.shape == value.shape:
        layout = ", ".join(("batch", *axes, "heads", "channels"))
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(f"query, key and value must share one shape ({layout}), got {shapes}")
    for axis, length, kernel, step in zip(axes, query.shape[1:], kernels, dilations, strict=False):
        if length < kernel * step:
            raise ValueError(
                f"{axis} {length} is smaller than kernel_size * dilation = {kernel} * {step}: "
                f"pad the {axis} by {kernel * step - length} at its end"
            )
    bias_shape = (query.shape[-2], *(2 * kernel - 1 for kernel in kernels))
    if bias is not None and bias.shape != bias_shape:
        raise ValueError(
            f"bias must have the shape (heads, 2 * kernel_size - 1, ...) = {bias_shape}, got {tuple(bias.shape)}"
        )
    return kernels, dilations


def _per_axis(name: str, value: PerAxis, axes: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(numbers) != axes or not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"{name} must be an integer or a sequence of {axes} integers, got {value}")
    return numbers
