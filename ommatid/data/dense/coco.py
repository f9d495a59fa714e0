"""COCO's JSON: pictures, categories, and things with boxes and outlines."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ommatid.data.dense.scene import Box, Outline, Scene, SceneListing, Thing
from ommatid.data.errors import DataError, Skipped
from ommatid.data.record import TRAIN_NAMES, VAL_NAMES, Record, chosen_splits

PANOPTIC = "panoptic"
"""In the names of the files that describe segments."""

ListImages = Callable[[Path, Path, str | None, dict[str, Any], SceneListing], None]
"""(folder, JSON file, split, content, listing): adds what the file lists."""


def coco_files(root: Path) -> dict[str, Path]:
    """The annotation files of a folder by the split that they name: train.json, annotations/instances_val2017.json.

    Also SPLIT/_annotations.coco.json. Empty where there is none.
    """
    found = [*root.glob("*.json"), *root.glob("annotations/*.json"), *root.glob("*/*.coco.json")]
    usual = [path for path in found if path.parent.name != "annotations" or path.name.startswith("instances")]
    return by_split(root, [path for path in usual if PANOPTIC not in path.name])


def by_split(root: Path, paths: Iterable[Path]) -> dict[str, Path]:
    """The files by the split that their names below `root` say; those that say none are left out."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        text = "_".join(path.relative_to(root).with_suffix("").parts).lower()
        split = next((name for name in (*TRAIN_NAMES, *VAL_NAMES) if name in text), None)
        if split is not None:
            found.setdefault(split, path)
    return found


def list_coco(path: Path) -> SceneListing:
    """A folder with a JSON file for each part, or one such file. Raises DataError for what is not COCO's."""
    return listed(path, coco_files, _list_images)


def listed(path: Path, files_of: Callable[[Path], dict[str, Path]], list_images: ListImages) -> SceneListing:
    """What `list_images` adds to a listing for each JSON file of a folder that `files_of` finds, or for one such file.

    Raises DataError for a folder without them, and for what is not COCO's.
    """
    root = path if path.is_dir() else path.parent
    if path.is_file() and root.name == "annotations":
        root = root.parent
    files: dict[str | None, Path] = {None: path}
    if path.is_dir():
        found = files_of(path)
        splits = chosen_splits(set(found), str(path))
        files = {(split if len(splits) == 2 else None): found[name] for name, split in splits.items()}
    contents = {split: read_coco(file) for split, file in files.items()}
    listing = SceneListing([], _classes(contents, files), stuff=_stuff(contents))
    for split, content in contents.items():
        list_images(root, files[split], split, content, listing)
    if not listing.scenes:
        raise DataError(f"{root}: its JSON lists no picture")
    return listing


def read_coco(path: Path) -> dict[str, Any]:
    """Raises DataError for what is not COCO's."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is not a COCO file: it has no list of {key}")
    return content


def _classes(contents: Mapping[str | None, dict[str, Any]], files: Mapping[str | None, Path]) -> tuple[str, ...]:
    """Names in the order of the ids of the first file; the other's have to be the same."""
    named: dict[Path, dict[Any, str]] = {}
    for split, content in contents.items():
        try:
            named[files[split]] = {category["id"]: str(category["name"]) for category in content["categories"]}
        except (KeyError, TypeError):
            raise DataError(f"{files[split]}: a category without id and name") from None
    (first, table), *others = named.items()
    for path, other in others:
        if set(other.values()) - set(table.values()):
            unknown = sorted(set(other.values()) - set(table.values()))[0]
            raise DataError(f"{path} has the category {unknown!r}, which {first.name} does not have")
    if not table:
        raise DataError(f"{first} names no category")
    return tuple(dict.fromkeys(name for _, name in sorted(table.items())))


def _stuff(contents: Mapping[str | None, dict[str, Any]]) -> tuple[str, ...]:
    """Names of the categories that are said to be no things."""
    categories = (category for content in contents.values() for category in content["categories"])
    return tuple(dict.fromkeys(str(category["name"]) for category in categories if category.get("isthing") == 0))


def labels_of(content: dict[str, Any], listing: SceneListing) -> dict[Any, int]:
    """Which class each category's id stands for."""
    assert listing.classes is not None
    return {category["id"]: listing.classes.index(str(category["name"])) for category in content["categories"]}


def is_panoptic(content: dict[str, Any]) -> bool:
    """Whether annotations say the segments of a whole picture each."""
    return any(isinstance(one, dict) and "segments_info" in one for one in content["annotations"])


def _list_images(root: Path, path: Path, split: str | None, content: dict[str, Any], listing: SceneListing) -> None:
    if is_panoptic(content):
        raise DataError(f"{path} describes segments of pictures: train it with the task panoptic")
    label = labels_of(content, listing)
    images = images_by_id(path, content, listing.skipped)
    things: dict[Any, list[Thing]] = defaultdict(list)
    for number, annotation in enumerate(content["annotations"]):
        image = images.get(annotation.get("image_id")) if isinstance(annotation, dict) else None
        name = f"{path.name}, annotation {_id(annotation, number)}"
        if image is None:
            listing.skipped.append(Skipped(name, "its image_id is that of no listed image"))
            continue
        name = f"{image['file_name']}, annotation {_id(annotation, number)}"
        thing = _thing(annotation, label)
        if isinstance(thing, str):
            listing.skipped.append(Skipped(name, thing))
        else:
            things[annotation["image_id"]].append(thing)
    for id, image in images.items():
        listing.scenes.append(replace(scene_of(root, path, split, image), things=tuple(things[id])))


def scene_of(root: Path, path: Path, split: str | None, image: dict[str, Any]) -> Scene:
    """A listed picture, with nothing in it."""
    size = (image["width"], image["height"]) if {"width", "height"} <= set(image) else None
    name = f"{split}/{image['file_name']}" if split else image["file_name"]
    return Scene(Record(name, "", split, _find(root, path, split, image["file_name"])), size)


def images_by_id(path: Path, content: dict[str, Any], skipped: list[Skipped]) -> dict[Any, dict[str, Any]]:
    """Those that can be told apart and found; the others are added to `skipped`."""
    images: dict[Any, dict[str, Any]] = {}
    names: set[str] = set()
    for number, image in enumerate(content["images"]):
        if not isinstance(image, dict) or "id" not in image or not isinstance(image.get("file_name"), str):
            skipped.append(Skipped(f"{path.name}, image {number}", "no id and file_name"))
        elif image["id"] in images or image["file_name"] in names:
            skipped.append(Skipped(image["file_name"], "listed twice"))
        else:
            images[image["id"]] = image
            names.add(image["file_name"])
    return images


def _thing(annotation: dict[str, Any], label: Mapping[Any, int]) -> Thing | str:
    """The thing, or what is wrong with it. Its box is judged against the picture later."""
    category = annotation.get("category_id")
    if category not in label:
        return f"category {category!r} is not listed"
    outline: Outline | None = annotation.get("segmentation") or None
    if outline is not None and not _is_outline(outline):
        return "its segmentation is neither polygons of three points or more nor run lengths"
    box = _box(annotation.get("bbox"), outline)
    if box is None:
        return f"its bbox is {annotation.get('bbox')!r}, not left, top, width and height"
    area = annotation.get("area")
    return Thing(
        box,
        label[category],
        outline,
        crowd=bool(annotation.get("iscrowd", 0)),
        area=float(area) if isinstance(area, int | float) else None,
    )


def _is_outline(outline: Any) -> bool:
    if isinstance(outline, dict):
        return {"size", "counts"} <= set(outline)
    return isinstance(outline, list) and all(
        isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_is_number, polygon))
        for polygon in outline
    )


def _box(bbox: Any, outline: Outline | None) -> Box | None:
    if bbox is None and isinstance(outline, list):
        xs = [x for polygon in outline for x in polygon[::2]]
        ys = [y for polygon in outline for y in polygon[1::2]]
        return min(xs), min(ys), max(xs), max(ys)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        return None
    left, top, width, height = map(float, bbox)
    return left, top, left + width, top + height


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _find(root: Path, path: Path, split: str | None, name: str) -> Path:
    """Where a listed picture lies; where none does, the likeliest place, which reading will find empty."""
    part = next((word for word in (*TRAIN_NAMES, *VAL_NAMES) if word in path.stem.lower()), split or "")
    folders = [path.parent, root, root / "images", root / part, root / "images" / part, root.parent / "images"]
    folders += [child for child in sorted(root.glob(f"{part}*")) if part and child.is_dir()]
    return next((folder / name for folder in folders if (folder / name).is_file()), root / "images" / name)


def _id(annotation: Any, number: int) -> Any:
    return annotation.get("id", f"number {number}") if isinstance(annotation, dict) else f"number {number}"
