"""Training images as they are judged, without augmentation: for what is measured on a model rather than learned."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from torch import Tensor

from ommatid.data.augment import eval_transform
from ommatid.data.loader import make_loader
from ommatid.data.samples import Samples

IMAGES, BATCH = 2000, 64
"""As many as batch norms of sub-networks are measured on in arXiv 1908.09791, and how many come at a time."""


def calibration_images(samples: Samples, side: int) -> Iterator[Tensor]:
    """Batches (B, 3, side, side) of some 2000 of the samples, always the same ones; of all, where there are fewer."""
    loader = make_loader(samples, eval_transform(side), batch=BATCH, shuffle=True, seed=0)
    return (images for images, _ in islice(loader, -(-IMAGES // BATCH)))
