"""The block that most architectures share, and the stage that stacks it."""

from __future__ import annotations

from collections.abc import Iterable
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
    for block in earlier:
        tokens = block(tokens)
    return last.channel(last.token(tokens)[:, :1])[:, 0]


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


def pyramid(stages: Iterable[nn.Module], x: Tensor, *context: Any) -> list[Tensor]:
    """The output of each stage, every one fed with the output of the one before, and all with the same context."""
    maps = []
    for stage in stages:
        x = stage(x, *context)
        maps.append(x)
    return maps
