"""The batches of a training, for each of its processes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from ommatid.data import ImageData, ImageTransform, Samples, batch_mix, eval_transform, make_loader, train_transform
from ommatid.data.augment import BatchMix
from ommatid.data.loader import Loader
from ommatid.training.recipes import Recipe


class Batches(LightningDataModule):
    """Training and validation loaders; the k-th batches of all processes together are the k-th batch of a single one.

    A last training batch that is not full is left out of the epoch, another one's images each time.
    """

    def __init__(self, data: ImageData, recipe: Recipe, *, size: int, seed: int, workers: int) -> None:
        super().__init__()
        self.data = data
        self.recipe = recipe
        self.size = size
        self.seed = seed
        self.workers = workers

    def per_epoch(self, processes: int) -> int:
        """Training batches of each process. Asking Lightning would start them before a resumed epoch is known."""
        return -(-len(self.data.train) // processes) // (self.recipe.batch // processes)

    def train_dataloader(self) -> Loader:
        augmentation = self.recipe.augmentation
        loader = self._loader(
            self.data.train,
            train_transform(augmentation, self.size),
            shuffle=True,
            drop_last=True,
            mix=batch_mix(augmentation, len(self.data.classes)),
        )
        # Workers fetch ahead as soon as they start, which is before Lightning tells the epoch of a resumed training.
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        loader.set_epoch(progress.processed)
        return loader

    def val_dataloader(self) -> Loader:
        return self._loader(self.data.val, eval_transform(self.size), shuffle=False, drop_last=False, mix=None)

    def _loader(
        self, samples: Samples, transform: ImageTransform, *, shuffle: bool, drop_last: bool, mix: BatchMix | None
    ) -> Loader:
        assert self.trainer is not None
        return make_loader(
            samples,
            transform,
            batch=self.recipe.batch // self.trainer.world_size,
            shuffle=shuffle,
            seed=self.seed,
            workers=self.workers,
            drop_last=drop_last,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
            mix=mix,
        )
