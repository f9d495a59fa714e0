"""Gradient checkpointing: training that remembers what went into each block, and computes the block once more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ommatid.nn.progressive_norm import ProgressiveNorm
from ommatid.nn.unified_norm import UnifiedNorm


def checkpoint_blocks_(model: nn.Module) -> None:
    """Makes every block of a backbone forget its inner maps until the backward pass asks for them (arXiv 1604.06174).

    Answers and gradients stay the same; only batch norms inside see the batch twice, which their running statistics
    feel as a doubled momentum.

    Raises:
        ValueError: a norm inside counts the passes that it sees, and would count each twice.
    """
    for part in model.modules():
        if isinstance(part, ProgressiveNorm | UnifiedNorm):
            kind = type(part).__name__
            raise ValueError(f"checkpoint = True is not possible: allowed is false where a {kind} counts its passes")
    for _, block in named_blocks(model):
        block.forward = partial(_recomputed, block.forward)


def named_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a backbone that follow one another, by name: the items of its lists, those of its stages' blocks."""
    for name, part in model.named_children():
        for inner, block in _blocks(part):
            yield f"{name}.{inner}" if inner else name, block


def _blocks(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Opens lists, and whatever holds lists of blocks or stages, but nothing inside a block."""
    inside = dict(part.named_children())
    is_list = type(part) in (nn.Sequential, nn.ModuleList)
    if not (is_list or any(name.endswith(("blocks", "stages")) for name in inside)):
        yield "", part
        return
    for name, child in inside.items():
        for inner, block in _blocks(child):
            yield f"{name}.{inner}" if inner else name, block


def _recomputed(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    return checkpoint(forward, *inputs, use_reentrant=False, **options)
