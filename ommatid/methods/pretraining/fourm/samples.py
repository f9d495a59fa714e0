"""One modality of a batch, and which of its tokens are shown, and which are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """One modality of a batch.

    values: pixels (B, 3, H, W), or the numbers of tokens (B, N). shown, asked: booleans (B, N), which tokens the
    encoder reads, and which the decoder guesses. reach: (B, N) integers; a token of the decoder sees as many of the
    first ones as the reaches up to its own add up to.
    """

    values: Tensor
    shown: Tensor
    asked: Tensor
    reach: Tensor


def image_sample(values: Tensor, noise: Tensor, shown: Sequence[int], asked: Sequence[int | None]) -> Sample:
    """An image, or the tokens of one: random ones are shown, and others asked for, which all see each other.

    Args:
        values: as in `Sample`.
        noise: (B, N), whose order is the choice.
        shown: how many, for each image of the batch.
        asked: the same; None for all that are not shown.
    """
    order = noise.argsort(dim=1, stable=True)
    first = torch.tensor(list(shown), device=noise.device)[:, None]
    counts = [noise.shape[1] if count is None else count for count in asked]
    last = first + torch.tensor(counts, device=noise.device)[:, None]
    chosen = (order >= first) & (order < last)
    count, place = chosen.sum(1, keepdim=True), chosen.int().argmax(1, keepdim=True)
    return Sample(values, order < first, chosen, torch.zeros_like(order).scatter_(1, place, count))


def sequence_sample(ids: Tensor, shown: Sequence[int], asked: Sequence[int]) -> Sample:
    """A sequence of what is shown, and behind it what is asked for, where tokens see those before them.

    Args:
        ids: (B, N), the shown tokens of each sequence, then those that are asked for.
        shown, asked: how many of each, for each sequence of the batch.
    """
    place = torch.arange(ids.shape[1], device=ids.device)
    first = torch.tensor(list(shown), device=ids.device)[:, None]
    last = first + torch.tensor(list(asked), device=ids.device)[:, None]
    chosen = (place >= first) & (place < last)
    return Sample(ids, place < first, chosen, chosen.int())
