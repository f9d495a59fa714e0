"""The analytic score of a structure: its entropy, how trainable its depth is, and what it costs.

"DeepMAD: Mathematical Architecture Design for Deep Convolutional Neural Network" (arXiv 2303.02165).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ommatid.methods.deepmad.cost import cost
from ommatid.models.backbones.deepmad import BOTTLENECK, CONV, MOBILE_GATED, TWO_CONVS, SuperBlock, stage_ends
from ommatid.models.config import require


@dataclass(frozen=True)
class Score:
    """Numbers of each stage (layers, channels, side, inner blocks up to its end, score), then those of the network.

    entropy_score is the sum of the stages' scores; score is what is left of it without the depth penalty.
    """

    block_entropy: tuple[float, ...]
    stage_score: tuple[float, ...]
    stage_layers: tuple[int, ...]
    stage_channels: tuple[int, ...]
    stage_size: tuple[int, ...]
    stage_blocks: tuple[int, ...]
    entropy_score: float
    effectiveness: float
    depth_penalty: float
    score: float
    mega_macs: float
    mega_params: float
    layers: int


def score(
    blocks: tuple[SuperBlock, ...],
    image_size: int,
    *,
    stage_weights: Sequence[float],
    alpha_width: float = 1.0,
    alpha_kernel: float = 1.0,
    depth_penalty_ratio: float = 10.0,
) -> Score:
    """Scores a structure for square images.

    stage_weights: one for each stage. alpha_width, alpha_kernel: what widths and kernels count in the entropy.

    Raises:
        ValueError: there are more or fewer weights than stages, or a block's kind has no entropy.
    """
    ends = stage_ends(blocks)
    require(
        len(stage_weights) == len(ends), "stage_weights", tuple(stage_weights), f"one for each of {len(ends)} stages"
    )
    inner = [block.inner() for block in blocks]
    entropies = [entropy(part, alpha_width, alpha_kernel) for parts in inner for part in parts]
    counts = [sum(len(parts) for parts in inner[: end + 1]) for end in ends]
    channels = [blocks[end].dim for end in ends]
    sides = [side_after(blocks[: end + 1], image_size) for end in ends]
    stage_scores = [
        weight * (math.log(channel) + _log_area(side)) * sum(entropies[:count])
        for weight, channel, side, count in zip(stage_weights, channels, sides, counts, strict=True)
    ]
    penalty = depth_penalty_ratio * math.exp(statistics.pstdev(_judged_depths(blocks) or [0]))
    spent = cost(blocks, image_size)
    return Score(
        block_entropy=tuple(entropies),
        stage_score=tuple(stage_scores),
        stage_layers=tuple(sum(layer_count(block) for block in blocks[: end + 1]) for end in ends),
        stage_channels=tuple(channels),
        stage_size=tuple(sides),
        stage_blocks=tuple(counts),
        entropy_score=sum(stage_scores),
        effectiveness=effectiveness(blocks),
        depth_penalty=penalty,
        score=sum(stage_scores) - penalty,
        mega_macs=spent.macs / 1e6,
        mega_params=spent.parameters / 1e6,
        layers=sum(layer_count(block) for block in blocks),
    )


def entropy(block: SuperBlock, alpha_width: float = 1.0, alpha_kernel: float = 1.0) -> float:
    """Half the logarithm of the fan-in of every layer of an inner block; depthwise layers count their kernel alone."""
    require(block.kind != TWO_CONVS, "class", block.kind, "one that has an entropy: all but this")
    kernel = 2 * alpha_kernel * math.log(block.kernel_size)
    widths = [block.in_dim] if block.kind == CONV else [block.in_dim, block.bottleneck]
    if block.kind == BOTTLENECK:
        widths.append(block.bottleneck)
    return 0.5 * (kernel + alpha_width * sum(math.log(width) for width in widths))


def effectiveness(blocks: tuple[SuperBlock, ...]) -> float:
    """Layers by their geometric mean width, the largest of all stages: too deep for its width is hard to train."""
    ratios, layers, log_width = [], 0, 0.0
    ends = stage_ends(blocks)
    for index, block in enumerate(blocks):
        for inner in block.inner():
            log_width += _log_fan_in(inner)
        layers += layer_count(block)
        if index in ends:
            ratios.append(math.exp(math.log(layers) - log_width / layers))
    return max(ratios)


def layer_count(block: SuperBlock) -> int:
    """Convolutions of a super-block, gates and shortcuts left out."""
    if block.kind == CONV:
        return 1
    return block.depth * (2 if block.kind == TWO_CONVS else 3)


def side_after(blocks: Sequence[SuperBlock], side: int) -> int:
    """The side of the map behind these blocks, as the reference counts it: behind a gate it is 1."""
    for block in blocks:
        side = 1 if block.kind == MOBILE_GATED else side // block.stride
    return side


def _log_fan_in(block: SuperBlock) -> float:
    kernel = 2 * math.log(block.kernel_size)
    if block.kind == CONV:
        return math.log(block.in_dim) + kernel
    widths = math.log(block.in_dim) + math.log(block.bottleneck) + kernel
    if block.kind == TWO_CONVS:
        return widths + kernel
    return widths + (0.0 if block.is_mobile else math.log(block.bottleneck))


def _log_area(side: int) -> float:
    return 2 * math.log(side) if side else -math.inf


def _judged_depths(blocks: tuple[SuperBlock, ...]) -> list[int]:
    """Depths that should be alike: the first ones of networks without depthwise convolutions are not asked to be."""
    depths = [block.depth for block in blocks if block.depth]
    kinds = {block.kind for block in blocks}
    if BOTTLENECK in kinds:
        return depths[2:]
    return depths[1:] if TWO_CONVS in kinds else depths
