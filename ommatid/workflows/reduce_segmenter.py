"""A segmentation network for `reduce`: the methods that save it tokens and keep its map whole, and its mIoU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ommatid.data.dense import SceneSamples, normalized
from ommatid.deployment.dense import form_of
from ommatid.methods.reduced import trunk_of
from ommatid.methods.tokens.dense import cluster_backbone, leave_early, patch_side, went_on
from ommatid.models.decoders.dtop import DToP
from ommatid.models.dense import DenseModel
from ommatid.report.metric import MIOU, Metric
from ommatid.runs.scenes import open_samples
from ommatid.runs.trained import SEGMENTATION, TrainedScenes, open_dense
from ommatid.tasks.whole_or_window import Segmentation
from ommatid.training.tasks.dense import told
from ommatid.workflows.evaluate_segmenter import judged
from ommatid.workflows.reduce_subject import Method

CPU = torch.device("cpu")

FEW = 8
"""Images that a method looks at, without their truth."""

ON_BACKBONE = {
    "expedite": Method(
        lambda model, keep, images: cluster_backbone(model, images, keep=keep),
        (0.75, 0.5, 0.35, 0.25),
        "centres for each patch",
        note="How sharply clusters are told apart follows from the size of the network's features on a few images.",
    )
}
"""Each makes, of a network on a plain transformer, a setting and a few images, a smaller one."""

ON_HEADS = {
    "dtop": Method(
        lambda model, threshold, *_: leave_early(model, threshold=threshold),
        (0.99, 0.95, 0.9, 0.8),
        "score from which on a token leaves",
        note="Each image keeps as many tokens as it needs: latency and multiply-adds are those of real images.",
    )
}
"""Of a network whose heads let tokens leave."""


@dataclass(frozen=True)
class SegmenterSubject:
    """As `Subject` says."""

    trained: TrainedScenes
    samples: SceneSamples
    source: str
    metric: ClassVar[Metric] = MIOU

    @classmethod
    def open(cls, run_or_weights: str | Path, data: str | Path | None) -> Self:
        """Raises ValueError, in one line, where it is no trained segmentation network, or there is no such data."""
        trained = open_dense(run_or_weights)
        return cls(trained, *open_samples(trained, data, "masks"))

    @property
    def name(self) -> str:
        return told(self.trained.model.config) or self.trained.facts.name

    @property
    def methods(self) -> Mapping[str, Method]:
        model = self.trained.model
        if isinstance(model, DToP):
            return ON_HEADS
        trunk_of(model.backbone or model)
        return ON_BACKBONE

    @property
    def header(self) -> dict[str, str]:
        return self.trained.facts.to_header()

    @property
    def finetuning(self) -> dict[str, Any]:
        # A tenth of the recipe's rate: the weights are trained.
        return {"task": SEGMENTATION, "recipe": "segment", "lr": 3e-4, "size": max(self.trained.facts.sides)}

    def reduced(self, method: Method, setting: float, *, epochs: int, batch: int) -> DenseModel:
        smaller = method.make(self.trained.model, setting, self.images(FEW))
        assert isinstance(smaller, DenseModel)
        return smaller

    def timed(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, DenseModel)
        return form_of(model, SEGMENTATION)

    def images(self, count: int) -> list[Tensor]:
        return [self._through.seen(normalized(image)[None]) for image in self._first(count)]

    def judge(self, model: nn.Module, batch: int) -> float:
        assert isinstance(model, DenseModel)
        total, _ = judged(replace(self.trained, model=model.eval()), self._through, self.samples, CPU)
        return total.compute()["miou"].item()

    def pictures(self, model: nn.Module, count: int) -> list[tuple[Image.Image, Tensor]]:
        assert isinstance(model, DenseModel)
        shown = []
        for image, seen in zip(self._first(count), self.images(count), strict=True):
            groups = went_on(model, seen)
            if groups is None:
                return []
            shown.append((self._padded(image, groups.shape[1:], patch_side(model)), groups[0]))
        return shown

    @property
    def _through(self) -> Segmentation:
        return Segmentation(self.trained.facts.view, self.trained.facts.sides)

    def _first(self, count: int) -> list[Tensor]:
        """Pictures (3, H, W) uint8."""
        return [self.samples[index][0].as_subclass(Tensor) for index in range(min(count, len(self.samples)))]

    def _padded(self, image: Tensor, grid: torch.Size, side: int) -> Image.Image:
        """What the model saw of a picture, with the black that made up whole patches."""
        seen = self._through.seen(image[None].float())
        margins = (0, grid[1] * side - seen.shape[3], 0, grid[0] * side - seen.shape[2])
        pixels = F.pad(seen, margins)[0].round().clamp(0, 255).byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())
