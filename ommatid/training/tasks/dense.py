"""What the tasks of annotated pictures share: their models are a backbone and a decoder, named together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ommatid.data import MEAN, STD, Loader
from ommatid.data.dense import SceneData, SceneSamples, canvas, unchanged
from ommatid.models.config import PartConfig, require, suggest
from ommatid.models.decoders.encoder import EncoderConfig
from ommatid.models.decoders.segmenter import DECODERS
from ommatid.models.registry import Family, families, find, find_detector, is_classifier, is_mask_transformer
from ommatid.runs.trained import SceneFacts

if TYPE_CHECKING:
    from ommatid.tasks.training import Batch
    from ommatid.training.settings import Settings

SMALL: dict[str, Any] = {
    "backbone_fields": {"dims": [24, 48, 96, 160], "depths": [1, 2, 2, 2], "ibn": [None, None, None, None]}
}
"""Of the usual backbone: a plain ResNet of 1.2 million parameters, which learns in minutes."""

LARGEST = 640
"""Of images, the longer side in pixels that a training's is at most where none is named."""


def composed(
    model: str, chosen: Mapping[str, Any], decoder: str | None, usual: str, decoders: Mapping[str, str]
) -> tuple[str, dict[str, Any]]:
    """The dense family that a backbone's name and a decoder's stand for, and the fields of its config.

    chosen: fields of the family's config; those that it lacks are the backbone's. decoder: `usual` where None.
    decoders: the family of each. A model that is no backbone stays, and `decoder` is a field of its config.

    Raises:
        ValueError: no such model, or no such decoder.
    """
    family, config = find(model)
    if not is_classifier(family, config):
        return model, dict(chosen) if decoder is None else dict(chosen) | {"decoder": decoder}
    name = decoder or chosen.get("decoder") or usual
    require(name in decoders, "decoder", name, ", ".join(decoders) + suggest(name, decoders))
    known = {field.name for field in fields(find(decoders[name])[0].config)}
    own = {field: value for field, value in chosen.items() if field in known}
    rest = {field: value for field, value in chosen.items() if field not in known and field != "decoder"}
    named = {"backbone": model} | ({"decoder": name} if "decoder" in known else {})
    inner = dict(own.get("backbone_fields", {})) | rest
    return decoders[name], own | named | ({"backbone_fields": inner} if inner else {})


def decoders_of(fits: Callable[[Family, PartConfig], bool]) -> dict[str, str]:
    """The families that `fits` is true of and that stand on a backbone; each is named as a decoder by its id."""
    on_backbone = {id: family for id, family in families().items() if issubclass(family.config, EncoderConfig)}
    return {id: id for id, family in on_backbone.items() if fits(family, family.config())}


def segmentation_decoders() -> dict[str, str]:
    return dict.fromkeys(DECODERS, "segmenter") | decoders_of(is_mask_transformer)


def find_mask_transformer(model: str, **overrides: Any) -> tuple[Family, PartConfig]:
    """As `registry.find_detector`. Raises ValueError for a model that makes no masks."""
    family, config = find_detector(model, **overrides)
    require(is_mask_transformer(family, config), "model", model, "one that finds masks")
    return family, config


def told(config: PartConfig) -> str:
    """A dense model in words: its backbone and what is on it, or what its file says."""
    parts = (getattr(config, name, None) for name in ("backbone", "decoder", "told"))
    return " + ".join(part for part in parts if part)


def check_dense(task: str, settings: Settings) -> None:
    """Raises ValueError for settings that follow from the data, or are for another task."""
    for name in ("num_classes", "in_channels"):
        if name in settings.set:
            raise ValueError(f"set {name}={settings.set[name]!r} is not possible: it follows from the data")
    if settings.degrade is not None:
        raise ValueError(f"degrade = {settings.degrade!r} is not possible: it is for the task restoration alone")


def usual_size(data: SceneData) -> int:
    """The pictures' longer side, in the median, up to 640."""
    longest = sorted(max(size) for size in data.train.sizes)
    return min(longest[len(longest) // 2], LARGEST)


def sides(data: SceneData, settings: Settings) -> tuple[int, int]:
    """Height and width of the training's images."""
    assert settings.size is not None
    return canvas(data.train.sizes, settings.size)


def scene_facts(task: str, data: SceneData, settings: Settings) -> SceneFacts:
    view = settings.recipe.scenes.view
    return SceneFacts(task, settings.model, data.classes, sides(data, settings), view, MEAN, STD, data.stuff)


def pixels_of(images: Tensor) -> Tensor:
    """A batch of normalised images as pictures, values 0 to 1."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return images.float() * std + mean


def named_parts(batch: Batch, *names: str) -> dict[str, Tensor]:
    """The images of a batch, and what is so named of each of them, by name and number."""
    images, truth = batch
    return {"images": images} | {f"{name}{number}": image[name] for number, image in enumerate(truth) for name in names}


def whole_pictures(make_loader: Callable[..., Loader], samples: SceneSamples, *, batch: int, **options: Any) -> Loader:
    """Pictures as they are, always in the same order; one at a time where they differ in size."""
    return make_loader(samples, unchanged, shuffle=False, batch=batch if samples.uniform else 1, **options)
