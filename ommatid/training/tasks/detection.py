"""The tasks detection and instances, as a training sees them: boxes of things, or a mask of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes

from ommatid.data import Loader
from ommatid.data.dense import SceneData, canvas, make_detection_loader, open_scenes, scene_transform
from ommatid.data.dense.open import EMBEDDED, FORMS, Wanted
from ommatid.measuring.measure import Measurement
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import Family, find_detector, is_detector, is_mask_transformer
from ommatid.report.metric import DETECTORS
from ommatid.runs.trained import DETECTION, SceneFacts
from ommatid.training.initial import answer_of
from ommatid.training.recipes import Recipe
from ommatid.training.tasks import dense

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch, MakeOptimizer, Training
    from ommatid.training.settings import Settings
    from ommatid.training.tasks.task import Sharing


class DetectionTask:
    """Boxes of things with a class and a score each; of mask transformers, `wanted` being outlines, masks of them.

    usual: the decoder where none is named.
    """

    model = "ibn_net"
    model_fields: Mapping[str, Any] = dense.SMALL | {"decoder_dim": 64}
    recipe = "detect"
    embedded = EMBEDDED
    data_forms = FORMS
    losses: tuple[str, ...] = ()
    columns: tuple[str, ...] = (
        "epoch",
        "train_loss",
        "val_loss",
        "val_ap",
        "val_ap50",
        "val_ap75",
        "lr",
        "seconds",
        "waited",
    )
    yardstick = DETECTORS
    published_size = 640
    speed_size: int | None = None

    def __init__(self, name: str = DETECTION, wanted: Wanted = "boxes", usual: str = "fcos") -> None:
        self.name = name
        self.wanted = wanted
        self.usual = usual

    def composed(self, model: str, chosen: Mapping[str, Any], decoder: str | None) -> tuple[str, dict[str, Any]]:
        fits = is_mask_transformer if self.wanted == "outlines" else _finds_boxes
        return dense.composed(model, chosen, decoder, self.usual, dense.decoders_of(fits))

    def find(self, model: str, **overrides: Any) -> tuple[Family, PartConfig]:
        family, config = find_detector(model, **overrides)
        masks = is_mask_transformer(family, config)
        require(masks == (self.wanted == "outlines"), "model", model, f"one that finds {self.wanted}, for {self.name}")
        return family, config

    def check(self, settings: Settings) -> None:
        dense.check_dense(self.name, settings)
        view = settings.recipe.scenes.view
        require(view == "whole", "scenes view", view, "whole, for detection")

    def open(
        self, data: str, degrade: str | None, *, seed: int = 0, split: Mapping[str, Any] | None = None
    ) -> SceneData:
        return open_scenes(data, self.wanted, seed=seed, split=None if split is None else dict(split))

    def facts(self, data: SceneData) -> dict[str, Any]:
        return {"classes": list(data.classes)}

    def suited(self, recipe: Recipe, data: SceneData) -> Recipe:
        return recipe

    def usual_size(self, data: SceneData) -> int:
        return dense.usual_size(data)

    def fitted(self, data: SceneData) -> dict[str, int]:
        return {"num_classes": len(data.classes)}

    def check_model(self, model: nn.Module, size: int, data: SceneData) -> None:
        answer_of(model, canvas(data.train.sizes, size))

    def train_loader(self, data: SceneData, settings: Settings, sharing: Sharing) -> Loader:
        transform = scene_transform(settings.recipe.scenes, dense.sides(data, settings))
        return make_detection_loader(data.train, transform, shuffle=True, drop_last=True, **sharing)

    def val_loader(self, data: SceneData, settings: Settings, sharing: Sharing) -> Loader:
        return dense.whole_pictures(make_detection_loader, data.val, **sharing)

    def training(
        self, model: nn.Module, data: SceneData, settings: Settings, make_optimizer: MakeOptimizer
    ) -> Training:
        from ommatid.tasks.detection import Things
        from ommatid.tasks.training import Training

        return Training(
            model,
            Things(dense.sides(data, settings), masks=self.wanted == "outlines"),
            val_samples=len(data.val),
            make_optimizer=make_optimizer,
            average=settings.recipe.ema,
        )

    def work_per_second(self, found: Measurement, model: nn.Module) -> float:
        return found.throughput

    def header(self, data: SceneData, settings: Settings) -> SceneFacts:
        return dense.scene_facts(self.name, data, settings)

    def baseline(self, data: SceneData) -> dict[str, float]:
        return {}

    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        images, truth = batch
        parts = {f"{name}{number}": image[name] for number, image in enumerate(truth) for name in ("boxes", "labels")}
        return {"images": images} | parts

    def drawn(self, batch: Batch) -> Tensor:
        images, truth = batch
        pictures = dense.pixels_of(images).nan_to_num().clamp(0, 1)
        return torch.stack(
            [draw_bounding_boxes(picture, image["boxes"]) for picture, image in zip(pictures, truth, strict=True)]
        )


def _finds_boxes(family: Family, config: PartConfig) -> bool:
    return is_detector(family, config) and not is_mask_transformer(family, config)
