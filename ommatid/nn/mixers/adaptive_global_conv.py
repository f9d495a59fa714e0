"""Adaptive global convolution: a kernel as long as the sequence, of which the sequence itself makes a part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.nn.implicit_filter import ImplicitKernel
from ommatid.ops.dct import dct, idct
from ommatid.ops.precision import precise


class Transform(NamedTuple):
    """To frequencies and back, along the last axis.

    forward: (..., N) -> (..., bins). backward: (..., bins) -> (..., n), by its second argument.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, int], Tensor]


def _cosines_back(x: Tensor, n: int) -> Tensor:
    return idct(x)


TRANSFORMS = {
    "fft": Transform(partial(torch.fft.rfft, norm="forward"), partial(torch.fft.irfft, norm="forward")),
    "fft_ortho": Transform(partial(torch.fft.rfft, norm="ortho"), partial(torch.fft.irfft, norm="ortho")),
    "dct": Transform(dct, _cosines_back),
}


class AdaptiveGlobalConv(nn.Module):
    """A convolution over all positions, row by row, with gates before and after it: (B, ..., C) -> (B, ..., C).

    Orchid (arXiv 2402.18508). The kernel, in frequencies, is a static one, made from positions, plus one that a small
    network makes from the input. The convolution is circular, or with cosines symmetric; short ones before it are
    causal.
    Cost: H W C (4 C + 3 K) multiply-adds, K the short kernel, about 40 H W C log2(H W) for the transforms, and those
    of the network that makes the static kernel.

    Args:
        dim: C.
        max_length: tokens that the static kernel's positions are made for; longer sequences stretch them.
        filter_dim, position_dim, inner_layers, frequency_init: of the static kernel; see `ImplicitKernel`.
        short_kernel: K, tokens.
        transform: "fft" divides by the number of tokens on the way there, "fft_ortho" by its root both ways; "dct".
        conditioning: what the input's kernel is made of, "absolute" its strengths of frequencies, "correlation" two
            maps of it that are correlated.
        frequency_conv: a convolution over frequencies in "correlation"; "absolute" always has it.
        conditioning_kernel: tokens, or frequencies, of the convolutions that make the kernel; odd.
        residual_conv: a second, static convolution of the layer's own input is added.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        *,
        filter_dim: int = 128,
        position_dim: int = 33,
        inner_layers: int = 1,
        frequency_init: float = 10.0,
        short_kernel: int = 5,
        transform: Literal["fft", "fft_ortho", "dct"] = "dct",
        conditioning: Literal["absolute", "correlation"] = "absolute",
        frequency_conv: bool = True,
        conditioning_kernel: int = 3,
        residual_conv: bool = True,
    ) -> None:
        super().__init__()
        self.transform = TRANSFORMS[transform]
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.short_conv = nn.Conv1d(3 * dim, 3 * dim, short_kernel, groups=3 * dim)
        is_complex = transform != "dct"
        self.adaptive: nn.Module
        if conditioning == "absolute":
            self.adaptive = StrengthKernel(dim, conditioning_kernel, self.transform, is_complex=is_complex)
        else:
            width = 2 * dim if is_complex else dim
            over_bins = NormedConv(width, width, conditioning_kernel, groups=dim) if frequency_conv else None
            self.adaptive = CorrelationKernel(dim, conditioning_kernel, self.transform, over_bins)
        static = partial(
            StaticConv,
            dim,
            max_length,
            position_dim=position_dim,
            hidden=filter_dim,
            inner_layers=inner_layers,
            frequency=frequency_init,
        )
        self.static = static()
        self.residual = static() if residual_conv else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, -2)
        projected = self.in_proj(tokens).mT
        short = self.short_conv(F.pad(projected, (self.short_conv.kernel_size[0] - 1, 0)))
        after, before, value = precise(short).chunk(3, dim=1)
        mixed = after * self.static(before * value, self.transform, self.adaptive(last_third(projected)))
        if self.residual is not None:
            mixed = mixed + self.residual(precise(tokens.mT), self.transform)
        return self.proj(mixed.mT).view(x.shape)

    def adaptive_kernel(self, tokens: Tensor) -> Tensor:
        """What a sequence makes of the kernel, in frequencies: (B, N, C) -> (B, C, bins)."""
        return self.adaptive(last_third(self.in_proj(tokens).mT))

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.proj, scale)


class StaticConv(nn.Module):
    """Convolves with a kernel made from positions: (B, C, N) -> (B, C, N).

    Arguments as of `ImplicitKernel`.
    """

    def __init__(self, dim: int, max_length: int, **network: Any) -> None:
        super().__init__()
        self.kernel = ImplicitKernel(dim, max_length, **network)
        self.skip = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor, transform: Transform, gain: Tensor | float = 0.0) -> Tensor:
        """`gain` (B, C, bins) is added to the kernel's own, in frequencies."""
        length = x.shape[-1]
        whole = transform.forward(self.kernel(length)) + gain
        return transform.backward(transform.forward(x) * whole, length) + self.skip[:, None] * x


class NormedConv(nn.Module):
    """A zero-padded convolution of few channels each, then a layer norm over all: (B, C_in, N) -> (B, C_out, N)."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, *, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2, groups=groups)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return precise(self.norm(self.conv(x).mT).mT)


class StrengthKernel(nn.Module):
    """A kernel from the strengths of a sequence's frequencies, whatever their phases: (B, C, N) -> (B, C, bins)."""

    def __init__(self, dim: int, kernel_size: int, transform: Transform, *, is_complex: bool) -> None:
        super().__init__()
        self.transform = transform
        self.over_time = NormedConv(dim, dim, kernel_size, groups=dim)
        self.over_bins = NormedConv(dim, (1 + is_complex) * dim, kernel_size, groups=dim)

    def forward(self, sequence: Tensor) -> Tensor:
        spectrum = self.transform.forward(self.over_time(sequence))
        if not spectrum.is_complex():
            return self.over_bins(spectrum.abs())
        power = spectrum.real.square() + spectrum.imag.square()
        real, imaginary = self.over_bins(power).unflatten(1, (-1, 2)).unbind(2)
        return torch.complex(real, imaginary)


class CorrelationKernel(nn.Module):
    """The cross-correlation of two maps of a sequence, which moves as that moves: (B, C, N) -> (B, C, bins).

    `over_bins` convolves it over frequencies, real parts of all channels before imaginary ones.
    """

    def __init__(self, dim: int, kernel_size: int, transform: Transform, over_bins: NormedConv | None) -> None:
        super().__init__()
        self.transform = transform
        self.key = NormedConv(dim, dim, kernel_size, groups=dim)
        self.query = NormedConv(dim, dim, kernel_size, groups=dim)
        self.over_bins = over_bins

    def forward(self, sequence: Tensor) -> Tensor:
        key, query = (self.transform.forward(made(sequence)) for made in (self.key, self.query))
        correlation = key.conj() * query
        if self.over_bins is None:
            return correlation
        if not correlation.is_complex():
            return self.over_bins(correlation)
        parts = torch.cat([correlation.real, correlation.imag], dim=1)
        return torch.complex(*self.over_bins(parts).chunk(2, dim=1))


def last_third(projected: Tensor) -> Tensor:
    """Values as they are projected, (B, 3 C, N) -> (B, C, N)."""
    return projected.chunk(3, dim=1)[2]
