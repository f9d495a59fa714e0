"""Pictures with a class for every pixel, or with boxes and outlines of things: their files, and how they are drawn."""

from ommatid.data.dense.loaders import (
    make_detection_loader,
    make_segmentation_loader,
)
from ommatid.data.dense.open import SceneData, Wanted, open_scene_evaluation, open_scenes
from ommatid.data.dense.samples import SceneSamples
from ommatid.data.dense.scene import IGNORED, Scene, SceneListing, Thing
from ommatid.data.dense.transforms import (
    SceneAugmentation,
    SceneTransform,
    canvas,
    normalized,
    scene_transform,
    unchanged,
)

__all__ = [
    "IGNORED",
    "Scene",
    "SceneAugmentation",
    "SceneData",
    "SceneListing",
    "SceneSamples",
    "SceneTransform",
    "Thing",
    "Wanted",
    "canvas",
    "make_detection_loader",
    "make_segmentation_loader",
    "normalized",
    "open_scene_evaluation",
    "open_scenes",
    "scene_transform",
    "unchanged",
]
