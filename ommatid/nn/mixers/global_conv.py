"""Structured global convolution: a kernel as long as the sequence, of a few pieces, stretched the more the further."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.deploy import scale_output_
from ommatid.ops.fft_conv import long_conv

MODES = ("cat", "sum", "nearest", "learnable", "fixed", "randn", "cos")
"""The words of a mode: see `MultiScaleKernel`."""


def structured_global_conv(
    dim: int,
    max_length: int,
    *,
    kernel_dim: int = 64,
    decay: tuple[float, float] = (2.0, 2.0),
    channels: int = 1,
    bidirectional: bool = True,
    mode: str = "cat_randn",
    glu: bool = False,
) -> GlobalConvLayer:
    """A depthwise convolution over all positions, row by row, then a linear layer: (B, ..., C) -> (B, ..., C).

    SGConv (arXiv 2210.09298). A sequence longer than the kernel sees as far as that reaches, a shorter one uses its
    beginning.
    Cost for N = H W, k = channels: k N C^2 multiply-adds, and about 15 k N C log2(2 N) for the transforms.

    Args:
        dim: C.
        max_length: tokens that the kernel is made for.
        kernel_dim, decay, mode: as in `MultiScaleKernel`.
        channels: k, kernels for each channel.
        bidirectional: reads later tokens, too, with kernels of their own.
        glu: the linear layer has twice as many outputs, of which one half gates the other.
    """
    count, scales = (1 + bidirectional) * channels, max(scales_for(max_length, kernel_dim), 1)
    kernel = MultiScaleKernel(count, dim, kernel_dim, scales, decay=decay, mode=mode)
    return GlobalConvLayer(GlobalConv(dim, kernel, bidirectional=bidirectional), glu=glu)


class GlobalConvLayer(nn.Module):
    """A global convolution, an activation and a linear layer: (B, ..., C) -> (B, ..., C).

    Args:
        conv: gives k channels for each of C.
        act: GELU where None.
        norm: a norm over channels behind the activation.
        glu: the linear layer has twice as many outputs, of which one half gates the other.
    """

    def __init__(
        self, conv: GlobalConv, *, act: nn.Module | None = None, norm: bool = False, glu: bool = False
    ) -> None:
        super().__init__()
        kernels, dim = conv.skip.shape
        self.conv = conv
        self.act = act or nn.GELU()
        self.norm = ScalarLayerNorm() if norm else nn.Identity()
        self.proj = nn.Linear(kernels * dim, (1 + glu) * dim)
        self.glu = nn.GLU() if glu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm(self.act(self.conv(x.flatten(1, -2))))
        return self.glu(self.proj(mixed)).view(x.shape)

    def scale_output_(self, scale: Tensor) -> None:
        """Of two halves, the one that is gated."""
        scale = scale if isinstance(self.glu, nn.Identity) else torch.cat([scale, torch.ones_like(scale)])
        scale_output_(self.proj, scale)


class GlobalConv(nn.Module):
    """Convolves every channel with k kernels as long as the sequence: (B, L, C) -> (B, L, k C), kernel by kernel.

    Args:
        dim: C.
        kernel: gives (k, C, L) for L, or (2 k, C, L) if `bidirectional`; of these the second half is for later tokens,
            the nearest first.
    """

    def __init__(self, dim: int, kernel: MultiScaleKernel, *, bidirectional: bool) -> None:
        super().__init__()
        self.kernel = kernel
        self.bidirectional = bidirectional
        self.skip = nn.Parameter(torch.randn(kernel.count // (1 + bidirectional), dim))

    def forward(self, tokens: Tensor) -> Tensor:
        sequences = tokens.mT.unsqueeze(1)
        convolved = long_conv(sequences, self.both_ways(tokens.shape[1]))
        return (convolved + self.skip.unsqueeze(-1) * sequences).flatten(1, 2).mT

    def both_ways(self, length: int) -> Tensor:
        """What `long_conv` takes: (k, C, L), or (k, C, 2 L) with the kernels for later tokens backwards at its end."""
        kernel = self.kernel(length)
        if not self.bidirectional:
            return kernel
        earlier, later = kernel.chunk(2)
        return torch.cat([earlier, later.flip(-1)], dim=-1)


class MultiScaleKernel(nn.Module):
    """Kernels (count, C, L) of any length L, from S pieces of K numbers, (S, count, C, K).

    Piece i is stretched to K 2^(max(0, i - 1) + init_scale) numbers and pieces are put one after another ("cat"), or it
    is stretched to K 2^(i + init_scale) and they are added up, from the start ("sum"). Each is multiplied with
    m^(S - 1 - i), where m goes from `decay[0]` for the first channel to `decay[1]` for the last. In the end comes a
    division by the L2 norm that the whole kernel had at the start of training.

    Args:
        count: kernels.
        dim: C.
        kernel_dim: K.
        scales: S.
        init_scale: what the first piece is stretched by, as a power of two.
        decay: of far pieces, or if "learnable" the range of a: position t is multiplied with (t + 1)^-a, m is 1.
        mode: words joined by "_". "cat" or "sum", which has precedence; "nearest" repeats numbers where otherwise lines
            join them; "learnable", and "fixed" if a is not to learn; first pieces are normal, "randn", or waves, "cos".
    """

    def __init__(
        self,
        count: int,
        dim: int,
        kernel_dim: int,
        scales: int,
        *,
        init_scale: int = 0,
        decay: tuple[float, float] = (2.0, 2.0),
        mode: str = "cat_randn",
    ) -> None:
        super().__init__()
        self.count = count
        words = mode.split("_")
        self.add = "sum" in words
        self.interpolation = "nearest" if "nearest" in words else "linear"
        lengths = range(scales) if self.add else (max(0, scale - 1) for scale in range(scales))
        self.stretches = [2 ** (init_scale + power) for power in lengths]
        draw = waves if "cos" in words and "randn" not in words else torch.randn
        self.pieces = nn.Parameter(torch.stack([draw(count, dim, kernel_dim) for _ in range(scales)]))
        self.multiplier: Tensor
        self.register_buffer("multiplier", torch.linspace(*decay, dim).unsqueeze(-1), persistent=False)
        self.decay: Tensor | None = None
        if "learnable" in words:
            self.decay = nn.Parameter(torch.empty(dim).uniform_(*decay), requires_grad="fixed" not in words)
        self.norm: Tensor
        self.register_buffer("norm", self.norm_of(self.pieces, self.decay))

    def forward(self, length: int) -> Tensor:
        whole = self.whole(self.pieces, self.decay)
        return F.pad(whole, (0, length - whole.shape[-1])) / self.norm

    @torch.no_grad()
    def norm_of(self, pieces: Tensor, decay: Tensor | None) -> Tensor:
        """(count, C, 1): the L2 norms of the kernel that `pieces` and `decay`, or None, would make."""
        return self.whole(pieces, decay).norm(dim=-1, keepdim=True)

    def whole(self, pieces: Tensor, decay: Tensor | None) -> Tensor:
        """(count, C, K 2^(S - 1 + init_scale)), before it is normed."""
        long = [
            F.interpolate(piece, scale_factor=float(stretch), mode=self.interpolation)
            for piece, stretch in zip(pieces, self.stretches, strict=True)
        ]
        if decay is None:
            long = [piece * self.multiplier ** (len(long) - 1 - scale) for scale, piece in enumerate(long)]
        if self.add:
            kernel = torch.stack([F.pad(piece, (0, long[-1].shape[-1] - piece.shape[-1])) for piece in long]).sum(0)
        else:
            kernel = torch.cat(long, dim=-1)
        if decay is None:
            return kernel
        steps = torch.arange(1, kernel.shape[-1] + 1, device=kernel.device)
        return kernel * torch.exp(-decay.unsqueeze(-1) * steps.log())


class ScalarLayerNorm(nn.Module):
    """Norms over channels without an epsilon, with one scale and one shift for all: (..., C) -> (..., C)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(x.to(self.scale.dtype), dim=-1, correction=0, keepdim=True)
        return self.scale / deviation * (x - mean + self.shift)


def scales_for(length: int, kernel_dim: int, init_scale: int = 0) -> int:
    """How many pieces a kernel of at least `length` tokens has, none where even one is too long."""
    return 1 + math.ceil(math.log2(length / kernel_dim)) - init_scale


def waves(count: int, dim: int, length: int) -> Tensor:
    """(count, C, length): 0, 1, 2, ... periods of the cosine, in a random order of channels."""
    turns = torch.arange(dim)[:, None] * torch.linspace(0, 2 * math.pi, length)
    return turns.cos()[torch.randperm(dim)].expand(count, dim, length)
