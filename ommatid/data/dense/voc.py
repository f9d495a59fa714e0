"""Pascal VOC: an XML file with boxes for each picture, and masks for some."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from ommatid.data.dense.scene import Box, Scene, SceneListing, Thing
from ommatid.data.errors import DataError, Skipped
from ommatid.data.folder import SUFFIXES, image_files
from ommatid.data.record import TRAIN_NAMES, VAL_NAMES, Record

XML, PICTURES, MASKS, SETS = "Annotations", "JPEGImages", "SegmentationClass", "ImageSets"

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The twenty of the challenge, which the numbers in its masks stand for, behind the background."""


def is_voc(root: Path) -> bool:
    return (root / XML).is_dir() and any((root / XML).glob("*.xml"))


def list_voc(root: Path, *, masks: bool) -> SceneListing:
    """Boxes of all pictures with an XML file, or the pictures with `masks`, in the parts that ImageSets/ names.

    Classes are those that the files name, sorted. Raises DataError where nothing is found.
    """
    listing = _list_masks(root) if masks else _list_boxes(root)
    if not listing.scenes:
        raise DataError(f"{root} holds no picture with {'a mask in ' + MASKS if masks else 'an XML file in ' + XML}")
    return listing


def _list_masks(root: Path) -> SceneListing:
    listing = SceneListing([], ("background", *CLASSES))
    splits = _splits(root, "Segmentation")
    for path in image_files(root / MASKS, listing.skipped) if (root / MASKS).is_dir() else []:
        record = Record(path.stem, "", splits.get(path.stem), _picture(root, path.stem, None))
        listing.scenes.append(Scene(record, mask=path))
    return listing


def _list_boxes(root: Path) -> SceneListing:
    skipped: list[Skipped] = []
    splits = _splits(root, "Main")
    parsed = []
    for path in sorted((root / XML).glob("*.xml")):
        try:
            parsed.append((path, ElementTree.parse(path).getroot()))
        except (ElementTree.ParseError, OSError) as error:
            skipped.append(Skipped(f"{XML}/{path.name}", f"not XML: {error}"))
    names = {(thing.findtext("name") or "").strip() for _, tree in parsed for thing in tree.iter("object")} - {""}
    classes = tuple(sorted(names))
    scenes = [_scene(root, path, tree, classes, splits, skipped) for path, tree in parsed]
    return SceneListing(scenes, classes, skipped)


def _scene(
    root: Path,
    path: Path,
    tree: ElementTree.Element,
    classes: tuple[str, ...],
    splits: dict[str, str],
    skipped: list[Skipped],
) -> Scene:
    things = []
    for number, element in enumerate(tree.iter("object"), start=1):
        name, box = (element.findtext("name") or "").strip(), _box(element.find("bndbox"))
        if name and box:
            # Difficult things are no mistake to find, and none to miss: what COCO calls a crowd.
            things.append(Thing(box, classes.index(name), crowd=element.findtext("difficult") == "1"))
        else:
            missing = "no name" if not name else "no bndbox of four numbers"
            skipped.append(Skipped(f"{XML}/{path.name}, object {number}", missing))
    source = _picture(root, path.stem, tree.findtext("filename"))
    return Scene(Record(path.stem, "", splits.get(path.stem), source), _size(tree), things=tuple(things))


def _box(element: ElementTree.Element | None) -> Box | None:
    """VOC counts pixels from 1 and its last pixel belongs to the box."""
    try:
        left, top, right, bottom = (float(element.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))  # type: ignore[union-attr]
    except (ValueError, AttributeError):
        return None
    return left - 1, top - 1, right, bottom


def _size(tree: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(tree.findtext(f"size/{key}") or "") for key in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width and height else None


def _splits(root: Path, kind: str) -> dict[str, str]:
    """Part of each picture by its name, where ImageSets/ says both parts."""
    listed: dict[str, set[str]] = {}
    for path in sorted((root / SETS / kind).glob("*.txt")):
        if path.stem in (*TRAIN_NAMES, *VAL_NAMES):
            listed[path.stem] = {line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line}
    train = next((listed[name] for name in TRAIN_NAMES if name in listed), None)
    val = next((listed[name] for name in VAL_NAMES if name in listed), None)
    return {} if train is None or val is None else dict.fromkeys(val, "val") | dict.fromkeys(train, "train")


def _picture(root: Path, stem: str, named: str | None) -> Path:
    folder = root / PICTURES if (root / PICTURES).is_dir() else root
    names = [*([named] if named else []), *(stem + suffix for suffix in (".jpg", ".png", *sorted(SUFFIXES)))]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
