"""How many keys and values each head keeps while text is generated."""

from __future__ import annotations

from torch import Tensor

from ommatid.methods.attention_spans.rules import Spans

LEAST, UNIT, SINK = 128, 64, 64


def cache_sizes(spans: Spans, length: int, max_new_tokens: int) -> tuple[Tensor, Tensor]:
    """(heads) positions of each head's cache, and (heads) of them that are never overwritten; the rest is a ring.

    length: tokens of the text. Sizes are multiples of 64, at least 128.
    """
    total = length + max_new_tokens
    needed = (spans.alpha + total * spans.beta).trunc().clamp(max=total).clamp(min=LEAST).long()
    size = -(-needed // UNIT) * UNIT
    return size, size.clamp(max=SINK)
