"""One step of DeepMAD's search: a super-block changes in one respect, and the structure is made whole again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ommatid.models.backbones.deepmad import CONV, SuperBlock
from ommatid.models.config import require

Draw = Callable[[Sequence[Any]], Any]
"""Chooses one of the candidates."""

Structure = tuple[SuperBlock, ...]


class Space(NamedTuple):
    """What a mutation may draw, and the limits of widths: `widest`, and from `stem_least` to 32 in the stem."""

    scales: tuple[float, ...]
    kernels: tuple[int, ...]
    depth_steps: tuple[int, ...]
    ratios: tuple[float, ...]
    widest: int
    stem_least: int


STEPS = (-2, -1, 1, 2)
BOTTLENECK_SPACE = Space((1.5, 1.25, 0.8, 0.6, 0.5), (3, 5), STEPS, (), 2048, 8)
MOBILE_SPACE = Space(
    tuple(round(0.1 * tenth, 1) for tenth in range(5, 21)),
    (3, 5, 7),
    STEPS,
    tuple(round(0.1 * tenth, 1) for tenth in range(15, 61)),
    1280,
    16,
)
SPACES = {
    "space_k1kxk1": BOTTLENECK_SPACE,
    "space_k1dwsek1": MOBILE_SPACE,
    "space_k1dwk1": MOBILE_SPACE._replace(stem_least=8),
}

METHODS = ("out", "k", "btn", "L")
STEM_WIDEST = 32
FIRST_DEEPEST = 3


def mutated(blocks: Structure, index: int, space: Space, draw: Draw, *, layer_budget: float = 0) -> Structure:
    """The structure with one super-block changed; repair it before it is built.

    layer_budget: the most convolutions that the network may have; 0 for no limit.
    """
    block = blocks[index]
    following = blocks[index + 1] if index + 1 < len(blocks) else None
    if following is None and (block.kind == CONV or space.ratios):
        return blocks
    method = draw(("out",) if block.kind == CONV else METHODS)
    require(method in METHODS, "method", method, ", ".join(METHODS))
    if block.kind == CONV:
        changed = _stem_width(block, following, space, draw)
    elif method == "out":
        changed = _width(block, following, space, draw)
    elif method == "k":
        changed = block._replace(kernel_size=_other(space.kernels, block.kernel_size, draw))
    elif method == "btn":
        changed = _bottleneck(block, space, draw)
    else:
        changed = _depth(block, index, len(blocks), space, draw, layer_budget)
    if changed.depth and not space.ratios and changed.bottleneck < changed.dim / 10:
        changed = changed._replace(bottleneck=smooth(changed.dim / 10))
    return (*blocks[:index], changed, *blocks[index + 1 :])


def repaired(blocks: Structure, image_size: int) -> Structure:
    """Every block takes the width of the one before it, and no kernel is much larger than its map."""
    whole: list[SuperBlock] = []
    side = float(image_size)
    for block in blocks:
        kernel = block.kernel_size
        while 1.5 * kernel > side and kernel > 1:
            kernel -= 2
        whole.append(block._replace(in_dim=whole[-1].dim if whole else block.in_dim, kernel_size=kernel))
        side /= block.stride
    return tuple(whole)


def smooth(width: float) -> int:
    """The nearest multiple of 8, at least one; halves go to the even multiple."""
    return max(8, round(width / 8) * 8)


def _stem_width(block: SuperBlock, following: SuperBlock | None, space: Space, draw: Draw) -> SuperBlock:
    width = max(space.stem_least, min(smooth(draw(space.scales) * block.dim), STEM_WIDEST))
    return block._replace(dim=min(width, following.dim) if following else width)


def _width(block: SuperBlock, following: SuperBlock | None, space: Space, draw: Draw) -> SuperBlock:
    width = min(smooth(draw(space.scales) * block.dim), space.widest)
    if space.ratios:
        width = max(width, block.in_dim)
        width = min(width, following.dim) if following else width
        ratio = _nearest(space.ratios, block.bottleneck / block.dim)
        return block._replace(dim=width, bottleneck=smooth(width * ratio))
    width = min(max(width, block.in_dim), 4 * block.in_dim)
    if following:
        width = max(min(width, following.dim), smooth(following.dim / 4))
    return block._replace(dim=width)


def _bottleneck(block: SuperBlock, space: Space, draw: Draw) -> SuperBlock:
    if space.ratios:
        ratio = _other(space.ratios, _nearest(space.ratios, block.bottleneck / block.dim), draw)
        return block._replace(bottleneck=smooth(block.dim * ratio))
    width = min(smooth(draw(space.scales) * block.bottleneck), space.widest, block.dim)
    return block._replace(bottleneck=width)


def _depth(block: SuperBlock, index: int, count: int, space: Space, draw: Draw, layer_budget: float) -> SuperBlock:
    depth = block.depth
    for _ in space.depth_steps:
        depth = max(1, block.depth + draw(space.depth_steps))
        if depth != block.depth:
            break
    if index == 1:
        depth = min(depth, FIRST_DEEPEST)
    if layer_budget:
        depth = min(depth, int(layer_budget // 3 // (count - (3 if space.ratios else 2))))
    return block._replace(depth=depth)


def _other(candidates: Sequence[Any], old: Any, draw: Draw) -> Any:
    """A candidate that is not the old one, if as many draws as there are candidates find one."""
    new = old
    for _ in candidates:
        new = draw(candidates)
        if new != old:
            break
    return new


def _nearest(candidates: Sequence[float], value: float) -> float:
    return min(candidates, key=lambda candidate: abs(candidate - value))
