"""Neighbourhood attention: every query attends to the K nearest keys along each axis of its map.

Source: "Neighborhood Attention Transformer" (arXiv 2204.07143) and "Dilated Neighborhood Attention Transformer"
(arXiv 2209.15001).

With dilation d a query sees only the positions of its own residue class modulo d, so a dilated axis is d undilated
ones. At a border the window is that of the nearest query whose window fits: always exactly K keys, no padding.

The fast version never gathers a window per query. It cuts each residue class into tiles (ops/tiles.py) that attend
densely to the block of keys that covers all their windows, under a mask.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ommatid.ops.tiles import MapTiles, map_tiles, take

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
    tiles = map_tiles((height, width), kernels, dilations)
    if bias is None:
        bias = query.new_zeros(1, 2 * kernels[0] - 1, 2 * kernels[1] - 1)
    mask = _tile_mask(bias.to(query.dtype), tiles)

    # The tiles lie on one axis with the heads that have masks of their own: one mask serves the whole batch, uncopied.
    _, tiles_and_heads, queries, keys = mask.shape
    shared = batch * (heads // len(bias))
    output = F.scaled_dot_product_attention(
        take(query, tiles.queries).view(shared, tiles_and_heads, queries, channels),
        take(key, tiles.keys).view(shared, tiles_and_heads, keys, channels),
        take(value, tiles.keys).view(shared, tiles_and_heads, keys, channels),
        attn_mask=mask,
        scale=scale,
    )
    output = output.reshape(batch, heads, tiles.queries.size, channels).transpose(1, 2)
    slots = torch.as_tensor(tiles.slots, device=query.device)
    return output.index_select(1, slots).view(query.shape)


def _tile_mask(bias: Tensor, tiles: MapTiles) -> Tensor:
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
