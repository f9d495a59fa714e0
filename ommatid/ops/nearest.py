"""The smallest entries of each row, where equal ones go by their place."""

from __future__ import annotations

import torch
from torch import Tensor


def smallest(values: Tensor, count: int) -> Tensor:
    """Places (Q, count) of the smallest `count` entries of each row of (Q, N), ascending; of equal ones the first.

    Only the chosen ones are sorted, which a stable sort of whole rows would not do.
    """
    last = values.topk(count, largest=False).values[:, -1:]
    # Entries below the last value come first, entries equal to it next, each by their place: no two are alike.
    order = (values >= last).long() + (values > last).long()
    places = torch.arange(values.shape[-1], device=values.device)
    chosen = (order * len(places) + places).topk(count, largest=False).values.remainder(len(places)).sort(-1).values
    return chosen.gather(-1, values.gather(-1, chosen).argsort(dim=-1, stable=True))
