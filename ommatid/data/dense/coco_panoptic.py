"""COCO's panoptic JSON: pictures, categories of things and of stuff, and a PNG of segments for each picture.

A pixel's segment is R + 256 G + 65536 B in the PNG, 0 for none ("Panoptic Segmentation", arXiv 1801.00868).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ommatid.data.dense.coco import (
    PANOPTIC,
    by_split,
    images_by_id,
    is_panoptic,
    labels_of,
    listed,
    scene_of,
)
from ommatid.data.dense.scene import SceneListing, Segment
from ommatid.data.errors import DataError, Skipped


def panoptic_files(root: Path) -> dict[str, Path]:
    """The files of a folder by the split that they name: panoptic_train.json, annotations/panoptic_val2017.json."""
    return by_split(root, [*root.glob(f"*{PANOPTIC}*.json"), *root.glob(f"annotations/*{PANOPTIC}*.json")])


def list_coco_panoptic(path: Path) -> SceneListing:
    """A folder with a JSON file for each part, or one such file. Raises DataError for what is not COCO's."""
    return listed(path, panoptic_files, _list_images)


def _list_images(root: Path, path: Path, split: str | None, content: dict[str, Any], listing: SceneListing) -> None:
    if content["annotations"] and not is_panoptic(content):
        raise DataError(f"{path} describes no segments: none of its annotations has segments_info")
    label = labels_of(content, listing)
    images = images_by_id(path, content, listing.skipped)
    described: dict[Any, dict[str, Any]] = {}
    for number, annotation in enumerate(content["annotations"]):
        problem = _problem(annotation, images, described)
        if problem is None:
            described[annotation["image_id"]] = annotation
        else:
            listing.skipped.append(Skipped(f"{path.name}, annotation {number}", problem))
    for id, image in images.items():
        if id not in described:
            listing.skipped.append(Skipped(image["file_name"], "no annotation says its segments"))
            continue
        scene = scene_of(root, path, split, image)
        segments = _segments(described[id]["segments_info"], label, scene.name, listing.skipped)
        mask = _find_png(root, path, described[id]["file_name"])
        listing.scenes.append(replace(scene, mask=mask, segments=segments))


def _problem(annotation: Any, images: Mapping[Any, Any], described: Mapping[Any, Any]) -> str | None:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("segments_info"), list):
        return "no list of segments_info"
    if not isinstance(annotation.get("file_name"), str):
        return "no file_name of a PNG"
    if annotation.get("image_id") not in images:
        return "its image_id is that of no listed image"
    return "a second one for its image" if annotation["image_id"] in described else None


def _segments(told: list[Any], label: Mapping[Any, int], name: str, skipped: list[Skipped]) -> tuple[Segment, ...]:
    """Those with an id of their own; what is wrong with the others is added to `skipped`.

    One of a category that is not listed is kept as a crowd, whose pixels are not judged.
    """
    kept: dict[int, Segment] = {}
    for number, one in enumerate(told, start=1):
        id = one.get("id") if isinstance(one, dict) else None
        if not isinstance(id, int) or not 0 < id < 1 << 24:
            skipped.append(Skipped(f"{name}, segment number {number}", f"its id is {id!r}, not 1 to {(1 << 24) - 1}"))
        elif id in kept:
            skipped.append(Skipped(f"{name}, segment {id}", "listed twice"))
        elif one.get("category_id") not in label:
            skipped.append(Skipped(f"{name}, segment {id}", f"category {one.get('category_id')!r} is not listed"))
            kept[id] = Segment(id, 0, crowd=True)
        else:
            kept[id] = Segment(id, label[one["category_id"]], bool(one.get("iscrowd", 0)))
    return tuple(kept.values())


def _find_png(root: Path, path: Path, name: str) -> Path:
    """Where a PNG lies; where none does, the likeliest place, which reading will find empty."""
    folders = [path.with_suffix(""), path.parent, root / path.stem, root / "masks", root]
    return next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
