"""Batches that depend on nothing but (seed, epoch, index)."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ommatid.data.augment import BatchMix, ImageTransform
from ommatid.data.errors import DataError
from ommatid.data.samples import Samples

Key = tuple[int, int]
"""(epoch, index): a sample as seen in an epoch. It carries the epoch into workers that were started before it."""


class EpochSampler(DistributedSampler):
    """Yields (epoch, index) of one rank's share. Rank or not, `set_epoch` (which Lightning calls) chooses the order.

    The k-th batches of all ranks together hold what the k-th batch of one process with a batch as large as all would.
    As in its base class, indices are repeated at the end so that every rank has as many.
    """

    def __iter__(self) -> Iterator[Key]:
        for index in super().__iter__():
            yield self.epoch, index


class Batches(Dataset):
    """Fetches whole batches: `join` makes one of what `draw` answers for each index."""

    def __init__(self, draw: Callable[[int], Any], join: Callable[[list[Any]], Any], seed: int) -> None:
        self.draw = draw
        self.join = join
        self.seed = seed

    def __getitems__(self, keys: list[Key]) -> Any:
        """Read, augment and stack. The global generator, which dropout draws from, is left as it was found."""
        with torch.random.fork_rng(devices=[]):
            drawn = []
            for epoch, index in keys:
                _seed_generator(self.seed, epoch, index)
                drawn.append(self.draw(index))
            epoch, first = keys[0]
            _seed_generator(self.seed, epoch, -1 - first)
            return self.join(drawn)


class Loader(DataLoader):
    """A DataLoader that can be told the epoch, and tells how long it was waited for.

    Attributes:
        waited: seconds in which whoever takes the batches had none, since it was made.
    """

    sampler: EpochSampler
    waited: float = 0.0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return self._timed(super().__iter__())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentation of the next pass."""
        self.sampler.set_epoch(epoch)

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        start = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()


def make_loader(
    samples: Samples,
    transform: ImageTransform,
    *,
    batch: int,
    shuffle: bool,
    seed: int,
    workers: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    ranks: int = 1,
    mix: BatchMix | None = None,
) -> Loader:
    """A loader of (images (batch, 3, size, size) float, labels (batch,) int64), mixed by `mix` where given.

    Order and augmentation depend on (seed, epoch, index) only: not on `workers`, nor on what ran before. `set_epoch`
    starts another epoch. `batch` is one rank's; `ranks` processes, of which this is `rank`, share the samples.
    Raises DataError for a batch below 1, or one that drop_last leaves without any batch.
    """
    return epoch_loader(
        samples,
        partial(_augmented, samples, transform),
        partial(_labelled, transform, mix),
        batch=batch,
        shuffle=shuffle,
        seed=seed,
        workers=workers,
        drop_last=drop_last,
        rank=rank,
        ranks=ranks,
    )


def epoch_loader(
    samples: Dataset[Any],
    draw: Callable[[int], Any],
    join: Callable[[list[Any]], Any],
    *,
    batch: int,
    shuffle: bool,
    seed: int,
    workers: int = 0,
    drop_last: bool = False,
    rank: int = 0,
    ranks: int = 1,
) -> Loader:
    """A loader of what `join` makes of a batch of `draw(index)`, index running over `samples`; else as `make_loader`.

    Both draw what is random from PyTorch's global generator, and are sent to the workers.
    """
    if batch < 1:
        raise DataError(f"batch is {batch}; allowed: 1 or more")
    count = len(samples)  # type: ignore[arg-type]
    if drop_last and count < batch * ranks:
        raise DataError(
            f"{count} training images do not fill one batch of {batch} on {ranks} process(es); "
            f"choose a batch of {max(count // ranks, 1)} or less"
        )
    sampler = EpochSampler(samples, num_replicas=ranks, rank=rank, shuffle=shuffle, seed=zlib.crc32(b"%d" % seed))
    return Loader(
        Batches(draw, join, seed),
        batch_size=batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_as_fetched,
        pin_memory=torch.cuda.is_available(),
        drop_last=drop_last,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(seed),  # its own, so that a pass takes nothing from the global one
    )


def _augmented(samples: Samples, transform: ImageTransform, index: int) -> tuple[Tensor, int]:
    image, label = samples.tensor(index)
    return transform.pixels(image), label


def _labelled(
    transform: ImageTransform, mix: BatchMix | None, drawn: list[tuple[Tensor, int]]
) -> tuple[Tensor, Tensor]:
    images, labels = zip(*drawn, strict=True)
    batch = transform.normalize(torch.stack(images)), torch.tensor(labels)
    return batch if mix is None else mix(*batch)


def _as_fetched(batch: Any) -> Any:
    return batch


def _seed_generator(seed: int, epoch: int, index: int) -> None:
    # torch.manual_seed visits every accelerator and takes a hundred times as long.
    torch.default_generator.manual_seed(zlib.crc32(b"%d %d %d" % (seed, epoch, index)))
