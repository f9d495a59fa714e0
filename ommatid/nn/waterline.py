"""What bounds a chain of convolutions on a machine, arithmetic or memory: the waterline of "On the Efficiency of
Convolutional Neural Networks" (arXiv 2404.03617).

A layer whose operations per byte lie below the machine's (the waterline) waits for memory. Fusing a chain into one pass
leaves only its ends to be read and written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ConvShape:
    """A convolution layer on a map: widths, the sides of its input and output, the kernel side and the groups.

    Batch norm, activation and residual sum count nothing: they are part of the convolution's pass.
    """

    in_channels: int
    out_channels: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel_size: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        return self.out_channels * self.in_channels // self.groups * self.kernel_size**2

    def operations(self, batch: int) -> int:
        """Multiplications and additions, counted apart."""
        return 2 * batch * math.prod(self.out_size) * self.weights

    def bytes_moved(self, batch: int, element: float) -> float:
        """Of input, output and weights, each once; `element` is the bytes of a number."""
        return element * (self.input_numbers(batch) + self.output_numbers(batch) + self.weights)

    def input_numbers(self, batch: int) -> int:
        return batch * math.prod(self.in_size) * self.in_channels

    def output_numbers(self, batch: int) -> int:
        return batch * math.prod(self.out_size) * self.out_channels


@dataclass(frozen=True)
class Attainable:
    """The best times of a chain, in seconds: bounded by arithmetic alone, with each layer's traffic, and fused."""

    operations: tuple[int, ...]
    bytes_moved: tuple[float, ...]
    fused_bytes: float
    peak: float
    bandwidth: float

    @property
    def waterline(self) -> float:
        """Operations per byte from which on the machine's arithmetic is the limit."""
        return self.peak / self.bandwidth

    @property
    def intensity(self) -> list[float]:
        """Operations per byte of each layer."""
        return [work / data for work, data in zip(self.operations, self.bytes_moved, strict=True)]

    @property
    def layer_efficiency(self) -> list[float]:
        """The share of the peak that each layer can reach."""
        return [min(1.0, intensity / self.waterline) for intensity in self.intensity]

    @property
    def ideal(self) -> float:
        return sum(self.operations) / self.peak

    @property
    def layer_by_layer(self) -> float:
        return sum(self._bounded(*layer) for layer in zip(self.operations, self.bytes_moved, strict=True))

    @property
    def fused(self) -> float:
        return self._bounded(sum(self.operations), self.fused_bytes)

    def _bounded(self, work: float, data: float) -> float:
        return max(work / self.peak, data / self.bandwidth)


def attainable(layers: Sequence[ConvShape], *, batch: int, element: float, peak: float, bandwidth: float) -> Attainable:
    """What a machine can reach on a chain of layers.

    element: bytes of a number. peak: operations per second. bandwidth: bytes per second.
    """
    ends = layers[0].input_numbers(batch) + layers[-1].output_numbers(batch)
    return Attainable(
        operations=tuple(layer.operations(batch) for layer in layers),
        bytes_moved=tuple(layer.bytes_moved(batch, element) for layer in layers),
        fused_bytes=element * (ends + sum(layer.weights for layer in layers)),
        peak=peak,
        bandwidth=bandwidth,
    )
