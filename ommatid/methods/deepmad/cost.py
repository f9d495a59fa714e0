"""Multiply-adds and parameters of a structure, as DeepMAD's limits count them: no classifier, no work of gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ommatid.models.backbones.deepmad import BOTTLENECK, CONV, MOBILE_GATED, TWO_CONVS, SuperBlock, squeezed_width


class Cost(NamedTuple):
    """Parameters, and multiply-adds (of one position of the input, or of the whole image)."""

    parameters: float
    macs: float

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, Cost)
        return Cost(self.parameters + other.parameters, self.macs + other.macs)

    def at(self, share: float) -> Cost:
        """The same on a map of that share of the positions."""
        return Cost(self.parameters, self.macs * share)


def cost(blocks: Sequence[SuperBlock], image_size: int) -> Cost:
    """Of a structure on square images. Sides are divided by strides exactly, whatever the rounding of real maps."""
    total, side = Cost(0, 0), float(image_size)
    for block in blocks:
        for inner in block.inner():
            total += (_convolution(inner) if inner.kind == CONV else _inner_block(inner)).at(side**2)
            side /= inner.stride
    return total


def _layer(in_dim: int, dim: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Cost:
    """A convolution and its batch norm."""
    weights = in_dim * dim * kernel**2 / groups
    return Cost(weights + 2 * dim, (weights + 2 * dim) / stride**2)


def _activation(dim: int, stride: int = 1) -> Cost:
    return Cost(0, dim / stride**2)


def _convolution(block: SuperBlock) -> Cost:
    layer = _layer(block.in_dim, block.dim, block.kernel_size, block.stride)
    return layer + _activation(block.dim, block.stride)


def _inner_block(block: SuperBlock) -> Cost:
    dim, kernel, stride = block.bottleneck, block.kernel_size, block.stride
    smaller = 1 / stride**2
    if block.kind == TWO_CONVS:
        layers = _layer(block.in_dim, dim, kernel) + _layer(dim, block.dim, kernel, stride)
        layers += _activation(dim) + _activation(block.dim, stride)
        return layers + _shortcut(block)
    layers = _layer(block.in_dim, dim) + _layer(dim, dim, kernel, stride, dim if block.is_mobile else 1)
    layers += _layer(dim, block.dim).at(smaller)
    layers += _activation(dim) + _activation(dim, stride) + _activation(block.dim, stride)
    if block.kind == MOBILE_GATED:
        hidden = squeezed_width(dim)
        layers += Cost(2 * dim * hidden + 2 * hidden + 2 * dim, 0)
    return layers + _shortcut(block)


def _shortcut(block: SuperBlock) -> Cost:
    changes = block.in_dim != block.dim
    if block.is_mobile and changes:
        return Cost(0, 0)
    pooled = Cost(0, block.in_dim if block.stride == 2 else 0)
    if changes or (block.kind == BOTTLENECK and block.leads):
        projected = _layer(block.in_dim, block.dim).at(1 / block.stride**2)
        return pooled + projected + _activation(block.dim, block.stride)
    return pooled
