"""The block that most architectures share, and the stage that stacks it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ommatid.nn.residual import MakeNorm, Residual


class Block(nn.Module):
    """Pre-norm block: a residual branch around the token mixer, then one around the channel mixer.

    (B, ..., C) -> (B, ..., C); the spatial axes are whatever the token mixer takes, and so is anything that comes with
    the input. Arguments as in `Residual`.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        channel_mixer: nn.Module,
        *,
        norm: MakeNorm = nn.LayerNorm,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.token = Residual(dim, mixer, norm=norm, layer_scale=layer_scale, drop_path=drop_path)
        self.channel = Residual(dim, channel_mixer, norm=norm, layer_scale=layer_scale, drop_path=drop_path)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.channel(self.token(x, *context))


def first_token(blocks: Iterable[nn.Module], tokens: Tensor) -> Tensor:
    """The first of the tokens (B, N, C) after all blocks, which are `Block`s: (B, C).

    In the last block the other tokens are only attended to: nobody reads what its channel mixer would make of them.
    """
    *earlier, last = blocks
    assert isinstance(last, Block)
    for block in earlier:
        tokens = block(tokens)
    return last.channel(last.token(tokens)[:, :1])[:, 0]


class Trunk(nn.Sequential):
    """The `Block`s of a plain transformer: (B, S + N, C) -> the same, S special tokens and then N = H W patches.

    Whatever saves work inside it takes its place, and gives a token back for each that came (methods/tokens).

    Args:
        blocks: applied one after another.
        special: S.
    """

    def __init__(self, *blocks: nn.Module, special: int = 1) -> None:
        super().__init__(*blocks)
        self.special = special

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:  # type: ignore[override]
        """`grid` is (H, W)."""
        return super().forward(tokens)

    def first(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The first of the tokens after all blocks: (B, C)."""
        return first_token(self, tokens)


class Stage(nn.Module):
    """One resolution of a pyramid: (B, H, W, C_in) -> (B, H', W', C). Blocks also get what comes with the input.

    Args:
        downsample: what leads here from the stage above.
        blocks: applied one after another.
        norm: at the end of the stage, where the architecture has one there.
    """

    def __init__(self, downsample: nn.Module, blocks: Iterable[nn.Module], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm or nn.Identity()

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x, *context)
        return self.norm(x)


def pyramid_stages(
    dims: Sequence[int],
    rates: Sequence[Sequence[float]],
    downsample: Callable[[int, int], nn.Module],
    block: Callable[[int, int, float], nn.Module],
    *,
    stem: nn.Module | None = None,
    norm: MakeNorm | None = None,
) -> nn.ModuleList:
    """The stages of a pyramid, fine to coarse.

    Args:
        dims: C of each stage.
        rates: the drop-path rate of each block, by stage; there are as many blocks as rates.
        downsample: makes what leads to a stage, of the widths above it and in it.
        block: makes one block, of its stage, its place there and its drop-path rate.
        stem: leads to the first stage, where that is not done before the pyramid.
        norm: makes the norm at the end of each stage, where there is one.
    """
    return nn.ModuleList(
        Stage(
            downsample(dims[i - 1], dim) if i else stem or nn.Identity(),
            [block(i, j, rate) for j, rate in enumerate(rates[i])],
            norm(dim) if norm else None,
        )
        for i, dim in enumerate(dims)
    )


def pyramid(stages: Iterable[nn.Module], x: Tensor, *context: Any) -> list[Tensor]:
    """The output of each stage, every one fed with the output of the one before, and all with the same context."""
    maps = []
    for stage in stages:
        x = stage(x, *context)
        maps.append(x)
    return maps
