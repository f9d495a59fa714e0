"""Pyramids whose blocks attend in two ways: how InLine and SLAB say which block does what."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor

from ommatid.models.config import require


def linear_blocks(types: str, depths: Sequence[int], linear: str) -> list[list[bool]]:
    """Which blocks of which stage have linear attention; the others have softmax attention.

    Args:
        types: a letter for each stage: `linear`, S for softmax, or M for both; behind the letters, where there is an M,
            the number of leading linear blocks in those stages.
        depths: blocks of each stage.
        linear: the family's letter for its linear attention.

    Raises:
        ValueError: `types` says something else.
    """
    stages = len(depths)
    letters, digits = types[:stages], types[stages:]
    allowed = f"{stages} letters out of {linear}, S, M; where there is an M, a number behind them"
    known = len(letters) == stages and set(letters) <= {linear, "S", "M"}
    require(known and (digits.isdecimal() or (not digits and "M" not in letters)), "attention_types", types, allowed)
    leading = {linear: max(depths), "S": 0, "M": int(digits or 0)}
    return [[index < leading[letter] for index in range(depth)] for letter, depth in zip(letters, depths, strict=True)]


def require_whole_windows(image_size: tuple[int, int], patch_size: int, windows: Sequence[Collection[int]]) -> None:
    """Every map must be whole windows, and be halved without remainder: nothing masks padding in linear attention.

    Args:
        image_size: (height, width).
        patch_size: of the first stage.
        windows: the window sides that occur in each stage.

    Raises:
        ValueError: the image size leaves a remainder somewhere.
    """
    for stage, sides in enumerate(windows):
        for side in sides:
            pixels = patch_size * 2**stage * max(side, 1)
            allowed = f"multiples of {pixels}, a window of {side} in stage {stage}"
            require(all(length % pixels == 0 for length in image_size), "image_size", image_size, allowed)


def name_windowed(state: dict[str, Tensor], mark: str) -> dict[str, Tensor]:
    """A reference state with `attn.mixer.` for `attn.` in the blocks whose attention has a tensor called `mark`.

    Those are the linear ones, which we put inside windows; our softmax window attention is one part.
    """
    windowed = {name.removesuffix(mark) for name in state if name.endswith(f".attn.{mark}")}

    def ours(name: str) -> str:
        block, _, leaf = name.rpartition("attn.")
        return f"{block}attn.mixer.{leaf}" if f"{block}attn." in windowed else name

    return {ours(name): value for name, value in state.items()}
