"""HAT and RGT as reference implementations are usually written, on the weights of our models.

Images are channels-first and tokens a sequence, so that every change between convolution and attention copies the map;
windows are rolled and rearranged; attention makes its scores, adds bias and mask, and takes an explicit softmax.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.models.restoration.hat import HAT
from ommatid.models.restoration.rgt import RGT

Size = tuple[int, int]


def plain_restore(model: nn.Module, image: Tensor) -> Tensor:
    """What `model(image)` gives, for images of whole windows."""
    mean = model.range.mean.view(1, -1, 1, 1)
    shallow = conv(model.shallow, (image - mean) * model.range.img_range)
    size = (shallow.shape[2], shallow.shape[3])
    tokens = norm(model.deep.norm_before, to_tokens(shallow))
    for index, group in enumerate(model.deep.groups):
        tokens = tokens + to_tokens(conv(group.inner.conv, to_image(blocks(model, group, index, tokens, size), size)))
    deep = conv(model.deep.conv, to_image(norm(model.deep.norm_behind, tokens), size)) + shallow
    end = model.reconstruction
    features = F.leaky_relu(conv(end.expand, deep), 0.01)
    for layer in end.upsample:
        features = (
            conv(layer, features) if isinstance(layer, nn.Conv2d) else F.pixel_shuffle(features, layer.upscale_factor)
        )
    return conv(end.proj, features) / model.range.img_range + mean


def blocks(model: nn.Module, group: nn.Module, index: int, tokens: Tensor, size: Size) -> Tensor:
    if isinstance(model, HAT):
        return hat_blocks(group, tokens, size)
    assert isinstance(model, RGT)
    for block in group.inner.blocks:
        tokens = rgt_block(block, tokens, size)
    return tokens


def hat_blocks(group: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    hybrid, overlapping = group.inner.blocks
    for block in hybrid:
        normed = norm(block.token.norm, tokens)
        mixer = block.token.inner
        convolved = to_tokens(channel_attention(mixer.conv, to_image(normed, size)))
        tokens = tokens + window_attention(mixer.attention, normed, size) + mixer.conv_scale * convolved
        tokens = tokens + mlp(block.channel.inner, norm(block.channel.norm, tokens))
    normed = norm(overlapping.token.norm, tokens)
    tokens = tokens + overlapping_attention(overlapping.token.inner, normed, size)
    return tokens + mlp(overlapping.channel.inner, norm(overlapping.channel.norm, tokens))


def window_attention(mixer: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    shift = (mixer.shift, mixer.shift)
    features = torch.roll(to_map(tokens, size), (-shift[0], -shift[1]), (1, 2))
    windows = to_windows(features, mixer.window)
    query, key, value = linear(mixer.qkv, windows).chunk(3, dim=-1)
    bias = mixer.bias.table[mixer.bias.index].permute(2, 0, 1)
    mixed = attention(query, key, value, mixer.heads, bias, shift_mask(size, mixer.window, shift))
    merged = from_windows(linear(mixer.proj, mixed), mixer.window, size)
    return torch.roll(merged, shift, (1, 2)).flatten(1, 2)


def overlapping_attention(mixer: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    qkv = to_map(linear(mixer.qkv, tokens), size)
    dim, window, reach = tokens.shape[-1], mixer.window[0], mixer.window[0] + 2 * mixer.halo
    query = to_windows(qkv[..., :dim].contiguous(), mixer.window)
    unfolded = F.unfold(qkv[..., dim:].permute(0, 3, 1, 2), reach, stride=window, padding=mixer.halo)
    around = unfolded.view(len(tokens), 2, dim, reach**2, -1).permute(1, 0, 4, 3, 2).flatten(1, 2)
    bias = mixer.bias.table[mixer.bias.index].permute(2, 0, 1)
    mixed = attention(query, around[0], around[1], mixer.heads, bias, None)
    return linear(mixer.proj, from_windows(mixed, mixer.window, size).flatten(1, 2))


def channel_attention(layers: nn.Module, image: Tensor) -> Tensor:
    features = conv(layers[2], F.gelu(conv(layers[0], image)))
    gate = layers[3]
    squeezed = F.relu(linear(gate.fc1, features.mean((2, 3))))
    return features * torch.sigmoid(linear(gate.fc2, squeezed))[:, :, None, None]


def rgt_block(block: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    token, channel = block.inner.token, block.inner.channel
    normed = norm(token.norm, tokens)
    mix = rectangle_attention if hasattr(token.inner, "branches") else recursive_attention
    mixed = tokens + mix(token.inner, normed, size)
    return mixed + gated_mlp(channel.inner, norm(channel.norm, mixed), size) + block.gamma * tokens


def rectangle_attention(mixer: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    qkv = linear(mixer.qkv, tokens)
    dim = tokens.shape[-1]
    local = to_tokens(conv(mixer.local, to_image(qkv[..., 2 * dim :], size)))
    below, right = -size[0] % mixer.multiple[0], -size[1] % mixer.multiple[1]
    padded = F.pad(to_map(qkv, size), (0, 0, 0, right, 0, below))
    whole = (padded.shape[1], padded.shape[2])
    mixed = []
    for index, branch in enumerate(mixer.branches):
        half = slice(index * dim // 2, (index + 1) * dim // 2)
        rolled = [
            torch.roll(part[..., half], (-branch.shift[0], -branch.shift[1]), (1, 2)) for part in padded.chunk(3, -1)
        ]
        windows = [to_windows(part, branch.window) for part in rolled]
        table = branch.bias.network(branch.bias.offsets)
        bias = table[branch.bias.index].permute(2, 0, 1)
        attended = attention(*windows, branch.heads, bias, shift_mask(whole, branch.window, branch.shift))
        merged = torch.roll(from_windows(attended, branch.window, whole), branch.shift, (1, 2))
        mixed.append(merged[:, : size[0], : size[1]].reshape(len(tokens), -1, dim // 2))
    return linear(mixer.proj, torch.cat(mixed, dim=-1) + local)


def recursive_attention(mixer: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    reduced = to_image(tokens, size)
    for _ in range(max(2, int(math.log(max(size) // 16, 4)))):
        reduced = conv(mixer.reduction, reduced)
    small = (reduced.shape[2], reduced.shape[3])
    summary = to_tokens(conv(mixer.summary.proj, conv(mixer.summary.local, reduced)))
    summary = F.gelu(norm(mixer.summary.norm, summary))
    value = linear(mixer.value, summary)
    value = value + to_tokens(conv(mixer.position.conv, to_image(value, small)))
    query, key = linear(mixer.query, tokens), linear(mixer.key, summary)
    return linear(mixer.proj, attention(query, key, value, mixer.heads, None, None, mixer.scale))


def gated_mlp(part: nn.Module, tokens: Tensor, size: Size) -> Tensor:
    content, gate = F.gelu(linear(part.fc1, tokens)).chunk(2, dim=-1)
    gate = to_tokens(conv(part.conv, to_image(norm(part.norm, gate), size)))
    return linear(part.fc2, content * gate)


def mlp(part: nn.Module, tokens: Tensor) -> Tensor:
    return linear(part.fc2, F.gelu(linear(part.fc1, tokens)))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    bias: Tensor | None,
    mask: Tensor | None,
    scale: float | None = None,
) -> Tensor:
    """(n, N, C) and twice (n, M, C) -> (n, N, C); bias (heads, N, M), mask (windows, N, M) of one image."""
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask[:, None]).flatten(0, 1)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


@cache
def shift_mask(size: Size, window: Size, shift: Size) -> Tensor | None:
    """(windows, N, N): -100 for pairs of tokens that were no neighbours before the shift."""
    if shift == (0, 0):
        return None
    labels = torch.zeros(1, *size, 1)
    for row, rows in enumerate((slice(-window[0], -shift[0]), slice(-shift[0], None)), 1):
        labels[:, rows] = 3 * row
    for column, columns in enumerate((slice(-window[1], -shift[1]), slice(-shift[1], None)), 1):
        labels[:, :, columns] += column
    regions = to_windows(labels, window).squeeze(-1)
    return -100.0 * (regions[:, :, None] != regions[:, None, :])


def to_windows(features: Tensor, window: Size) -> Tensor:
    """(B, H, W, C) -> (n, N, C)."""
    batch, height, width, dim = features.shape
    grid = features.reshape(batch, height // window[0], window[0], width // window[1], window[1], dim)
    return grid.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window[0] * window[1], dim)


def from_windows(windows: Tensor, window: Size, size: Size) -> Tensor:
    """(n, N, C) -> (B, H, W, C)."""
    grid = windows.view(-1, size[0] // window[0], size[1] // window[1], *window, windows.shape[-1])
    return grid.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, *size, windows.shape[-1])


def to_tokens(image: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C)."""
    return image.flatten(2).transpose(1, 2).contiguous()


def to_image(tokens: Tensor, size: Size) -> Tensor:
    """(B, H W, C) -> (B, C, H, W)."""
    return tokens.transpose(1, 2).contiguous().view(len(tokens), -1, *size)


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """(B, H W, C) -> (B, H, W, C)."""
    return tokens.view(len(tokens), *size, -1)


def conv(layer: nn.Module, image: Tensor) -> Tensor:
    """A convolution of ours on a channels-first image."""
    return F.conv2d(image, layer.weight.contiguous(), layer.bias, layer.stride, layer.padding, 1, layer.groups)


def linear(layer: nn.Module, tokens: Tensor) -> Tensor:
    return F.linear(tokens, layer.weight, layer.bias)


def norm(layer: nn.Module, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
