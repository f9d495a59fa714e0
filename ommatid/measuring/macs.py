"""Multiply-adds, as papers count them: those of matrix products, convolutions and attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one forward pass. Model and image may be on the meta device, where it costs no arithmetic."""
    # The counter trips over parameters that are a layer's input and want gradients.
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with counted() as counter:
        functional_call(model, values, image)
    return counter.get_total_flops() // 2


@contextmanager
def counted() -> Iterator[FlopCounterMode]:
    """Counts the operations of what is computed within, two for each multiply-add."""
    # Loads PyTorch's symbolic algebra: a second that a list of models without MACs does not wait for.
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_product})
    # Attention is counted as the two matrix products that it is: not every fused kernel is known to the counter.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        yield counter


def _grouped_product(rows: Sequence[int], weights: Sequence[int], *rest: Any, **keywords: Any) -> int:
    """Of (R, K) rows, each with one of the matrices (E, K, N)."""
    return 2 * rows[0] * rows[1] * weights[2]
