"""What is compressed: a trained classifier, and the images that say how good it and its smaller forms are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ommatid.data import ImageData, eval_transform, make_loader, open_data
from ommatid.runs.data_place import data_place
from ommatid.runs.inference import probabilities
from ommatid.runs.run import Run
from ommatid.runs.trained import Trained

CALIBRATION, BATCH = 8, 32
"""Batches of training images that methods look at, and images in each."""


@dataclass(frozen=True)
class Subject:
    """run: what the model comes from. data: where the images are. seed: of the batches that methods look at."""

    trained: Trained
    run: Run
    data: str
    seed: int

    @property
    def model(self) -> nn.Module:
        return self.trained.model

    @property
    def is_own_data(self) -> bool:
        """Whether the images are those of the run."""
        return self.data == data_place(str(self.run.config["data"]))

    @cached_property
    def images(self) -> ImageData:
        """Split as the run split them where they are its own."""
        split = self.run.split if self.is_own_data else None
        return open_data(self.data, seed=self.run.config["seed"], split=split)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Training images, as they are judged."""
        samples, transform = self.images.train, eval_transform(self.trained.facts.size)
        loader = make_loader(samples, transform, batch=min(BATCH, len(samples)), shuffle=True, seed=self.seed)
        return [batch for batch, _ in zip(loader, range(CALIBRATION), strict=False)]

    def accuracy(self, model: nn.Module) -> float:
        """On the validation part."""
        loader = make_loader(self.images.val, eval_transform(self.trained.facts.size), batch=64, shuffle=False, seed=0)
        device = torch.device("cpu")
        right = [probabilities(model.eval(), images, device).argmax(1).eq(labels) for images, labels in loader]
        return float(torch.cat(right).float().mean())
