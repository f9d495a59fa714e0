"""Pictures with a class or a segment for every pixel, or boxes and outlines of things: their files, their drawing."""

from ommatid.data.dense.loaders import (
    make_detection_loader,
    make_segmentation_loader,
)
from ommatid.data.dense.open import SceneData, open_scene_evaluation, open_scenes
from ommatid.data.dense.samples import SceneSamples
from ommatid.data.dense.scene import IGNORED, Scene, SceneListing, Segment, Thing, Wanted
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
    "Segment",
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
