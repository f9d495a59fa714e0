"""The batches of a training, for each of its processes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule

from ommatid.data import Loader
from ommatid.training.settings import Settings
from ommatid.training.tasks import Task, TaskData
from ommatid.training.tasks.task import Sharing


class Batches(LightningDataModule):
    """Training and validation loaders; the k-th batches of all processes together are the k-th batch of a single one.

    A last training batch that is not full is left out of the epoch, another one's images each time.
    """

    def __init__(self, task: Task, data: TaskData, settings: Settings) -> None:
        super().__init__()
        self.task = task
        self.data = data
        self.settings = settings

    def per_epoch(self, processes: int) -> int:
        """Training batches of each process. Asking Lightning would start them before a resumed epoch is known."""
        return -(-len(self.data.train) // processes) // (self.settings.recipe.batch // processes)

    def train_dataloader(self) -> Loader:
        loader = self.task.train_loader(self.data, self.settings, self._sharing())
        # Workers fetch ahead as soon as they start, which is before Lightning tells the epoch of a resumed training.
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        loader.set_epoch(progress.processed)
        return loader

    def val_dataloader(self) -> Loader:
        return self.task.val_loader(self.data, self.settings, self._sharing())

    def _sharing(self) -> Sharing:
        assert self.trainer is not None
        assert self.settings.workers is not None
        return {
            "batch": self.settings.recipe.batch // self.trainer.world_size,
            "seed": self.settings.seed,
            "workers": self.settings.workers,
            "rank": self.trainer.global_rank,
            "ranks": self.trainer.world_size,
        }
