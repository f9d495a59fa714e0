"""Layers that run on a sequence one step after another, and remember only what they have to.

A sequence is a map of one row, (B, 1, N, C); a step of it is (B, 1, 1, C).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]
"""What a layer does to one step of a sequence; it may remember the steps before."""


def step_of(layer: nn.Module) -> Step:
    """A layer, begun anew, for one step at a time.

    A layer with a memory says how by its method `step() -> Step`; all others see every step by itself.
    """
    begin = getattr(layer, "step", None)
    if begin is not None:
        return begin()
    if not isinstance(layer, nn.Sequential):
        return layer
    steps = [step_of(part) for part in layer]

    def run(features: Tensor) -> Tensor:
        for step in steps:
            features = step(features)
        return features

    return run


def slid(layer: nn.Module, steps: Iterable[Tensor]) -> Iterator[Tensor]:
    """A layer that sees one step to either side, with zeros around the sequence: every answer comes a step later."""
    before: Tensor | None = None
    now: Tensor | None = None
    for after in steps:
        if now is not None:
            yield _middle(layer, before, now, after)
        before, now = now, after
    if now is not None:
        yield _middle(layer, before, now, None)


def _middle(layer: nn.Module, before: Tensor | None, now: Tensor, after: Tensor | None) -> Tensor:
    zeros = torch.zeros_like(now)
    window = [zeros if before is None else before, now, zeros if after is None else after]
    return layer(torch.cat(window, 2))[:, :, 1:2]
