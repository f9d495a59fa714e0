"""Open annotated pictures, wherever they come from, as a training and a validation part."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ommatid.data.dense.coco import coco_files, is_panoptic, list_coco, read_coco
from ommatid.data.dense.coco_panoptic import list_coco_panoptic, panoptic_files
from ommatid.data.dense.generated import list_generated
from ommatid.data.dense.mask_folder import is_mask_folder, list_mask_folder
from ommatid.data.dense.masks import painted, read_mask
from ommatid.data.dense.samples import SceneSamples
from ommatid.data.dense.scene import BACKGROUND, IGNORED, Scene, SceneListing, Wanted
from ommatid.data.dense.segments import numbered, read_ids
from ommatid.data.dense.things import tidied
from ommatid.data.dense.voc import is_voc, list_voc
from ommatid.data.errors import DataError, Skipped, UnreadableImageError
from ommatid.data.picture_samples import stored_size
from ommatid.data.read import read_records, try_each
from ommatid.data.record import Record
from ommatid.data.split import apply_split, split_records

EMBEDDED = "scenes"

FORMS = (
    f"{EMBEDDED}, a folder with images/ and masks/, one with COCO's train.json and val.json (or its files of segments, "
    "for panoptic), such a JSON file, "
    "or a Pascal VOC folder"
)


@dataclass(frozen=True)
class SceneData:
    """Annotated pictures in two parts that index the same `classes`.

    `skipped`: the files and annotations passed over so far. `origin`: where the data came from, in words. `stuff`:
    of segments, the classes of which a picture has one at most.
    """

    origin: str
    classes: tuple[str, ...]
    train: SceneSamples
    val: SceneSamples
    skipped: list[Skipped]
    stuff: tuple[str, ...] = ()

    def split(self) -> dict[str, list[str]]:
        """Which picture is in which part, by name, ready for JSON; given back to `open_scenes` it opens the same."""
        return {"train": list(self.train.paths), "val": list(self.val.paths)}

    def fingerprint(self) -> str:
        """Twelve hex digits that change when a name, a class, an annotation or the split does."""
        told = [self.classes, self.split(), [_digest(scene) for scene in self.train.scenes + self.val.scenes]]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def open_scenes(
    spec: str | Path,
    wanted: Wanted,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    split: dict[str, Any] | None = None,
) -> SceneData:
    """Open annotated pictures and read each once, so that what is bad is known, named in `skipped`, and left out.

    spec: `scenes` (embedded); a folder with images/ and masks/, or with parts train/ and val/ that have them; a folder
    with COCO's JSON files, or one such file; or a Pascal VOC folder. Data without a validation part of its own is
    split: `val_fraction`, by `seed`. Where masks or segments are wanted of things, they are painted on a background,
    class 0.
    split: what `SceneData.split()` answered in an earlier opening, to be used instead.
    Raises DataError, in one line that says what to do, for data that cannot be trained on.
    """
    listing = _list(spec, wanted)
    scenes, classes = _read(listing, spec, wanted, listing.classes)
    if split is not None:
        scenes = _placed(scenes, apply_split([scene.record for scene in scenes], split))
    elif all(scene.record.split is None for scene in scenes):
        if len(scenes) < 2:
            raise DataError(f"{spec} has one usable picture; add another, to judge by what was not trained on")
        drawn = split_records([scene.record for scene in scenes], seed=seed, val_fraction=val_fraction)
        scenes = _placed(scenes, drawn)
    parts = {part: [scene for scene in scenes if scene.record.split == part] for part in ("train", "val")}
    for part, members in parts.items():
        if not members:
            raise DataError(f"{spec}: the {part} part holds no usable picture{_first(listing.skipped)}")
    train, val = (_samples(parts[part], classes, listing, wanted) for part in ("train", "val"))
    if wanted != "masks" and not any(scene.things or scene.segments for scene in parts["train"]):
        raise DataError(f"{spec}: no thing is left in any training picture{_first(listing.skipped)}")
    stuff = (BACKGROUND,) if _is_painted(listing, wanted) else listing.stuff
    return SceneData(str(spec), classes, train, val, listing.skipped, stuff if wanted == "segments" else ())


def open_scene_evaluation(spec: str | Path, wanted: Wanted, classes: Sequence[str]) -> SceneSamples:
    """Open the data to judge a trained model on: its validation part if it comes with one, else all of it.

    classes: the training's, in its order. Raises DataError for a class that is not among them.
    """
    listing = _list(spec, wanted)
    val = [scene for scene in listing.scenes if scene.record.split == "val"]
    listing = replace(listing, scenes=val or listing.scenes)
    painted = _is_painted(listing, wanted)
    own = (BACKGROUND, *(listing.classes or ())) if painted else listing.classes
    if own is not None and tuple(own) != tuple(classes):
        listing = _renumbered(listing, own, classes, spec)
    scenes, _ = _read(listing, spec, wanted, tuple(classes)[1:] if painted else tuple(classes))
    return _samples(scenes, tuple(classes), listing, wanted)


def _list(spec: str | Path, wanted: Wanted) -> SceneListing:
    if spec == EMBEDDED:
        return list_generated()
    path = Path(spec).expanduser()
    if path.is_file() and path.suffix == ".json":
        return list_coco_panoptic(path) if wanted == "segments" and is_panoptic(read_coco(path)) else list_coco(path)
    if not path.is_dir():
        problem = "is neither a folder nor a .json file" if path.exists() else "does not exist"
        raise DataError(f"{spec} {problem}; give {FORMS}")
    if is_voc(path):
        return list_voc(path, masks=wanted == "masks" and (path / "SegmentationClass").is_dir())
    if wanted == "masks" and is_mask_folder(path):
        return list_mask_folder(path)
    if wanted == "segments" and panoptic_files(path):
        return list_coco_panoptic(path)
    if coco_files(path):
        return list_coco(path)
    if panoptic_files(path):
        raise DataError(f"{spec} describes segments of pictures: train it with the task panoptic")
    if is_mask_folder(path):
        raise DataError(f"{spec} holds a class for every pixel, but no things: train it with the task segmentation")
    raise DataError(f"{spec} holds no annotated pictures; give {FORMS}")


def _has_masks(listing: SceneListing) -> bool:
    return any(scene.mask is not None for scene in listing.scenes)


def _is_painted(listing: SceneListing, wanted: Wanted) -> bool:
    """Whether what is wanted of every pixel is painted from things, on a background."""
    return wanted in ("masks", "segments") and not _has_masks(listing)


def _read(
    listing: SceneListing, spec: str | Path, wanted: Wanted, classes: tuple[str, ...] | None
) -> tuple[list[Scene], tuple[str, ...]]:
    """The scenes that can be used, with their sizes and decoded as far as memory allows; and the classes."""
    records, unreadable, _ = read_records([scene.record for scene in listing.scenes])
    listing.skipped.extend(unreadable)
    scenes = _placed(listing.scenes, records)
    if wanted == "segments" and _has_masks(listing):
        scenes = _with_segments(scenes, listing.skipped)
    elif wanted == "masks" and _has_masks(listing):
        scenes, classes = _with_masks(scenes, classes, listing)
    else:
        scenes = _with_things(scenes, listing.skipped)
    assert classes is not None
    if _is_painted(listing, wanted):
        scenes = [_painted(scene) if wanted == "masks" else _on_background(scene) for scene in scenes]
        classes = (BACKGROUND, *classes)
    if not scenes:
        raise DataError(f"none of the pictures of {spec} can be used{_first(listing.skipped)}")
    return scenes, classes


def _placed(scenes: Sequence[Scene], records: Sequence[Record]) -> list[Scene]:
    """The scenes of these records, in their order."""
    by_name = {scene.name: scene for scene in scenes}
    return [replace(by_name[record.name], record=record) for record in records]


def _with_masks(
    scenes: list[Scene], classes: tuple[str, ...] | None, listing: SceneListing
) -> tuple[list[Scene], tuple[str, ...]]:
    by_name = {scene.name: scene for scene in scenes}
    count = None if classes is None else len(classes)

    def read(record: Record) -> np.ndarray:
        mask = by_name[record.name].mask
        pixels = mask if isinstance(mask, np.ndarray) else read_mask(_path(mask), count, listing.colours)
        width, height = stored_size(record.source)
        if pixels.shape != (height, width):
            raise UnreadableImageError(
                f"its mask has {pixels.shape[1]} x {pixels.shape[0]} pixels, the picture {width} x {height}"
            )
        if (pixels == IGNORED).all():
            raise UnreadableImageError("no pixel of its mask has a class")
        return pixels

    masks, bad = try_each([scene.record for scene in scenes], read)
    listing.skipped.extend(bad)
    if classes is None:
        most = max((int(mask[mask != IGNORED].max()) for _, mask in masks), default=0)
        classes = tuple(f"class {label}" for label in range(max(most + 1, 2)))
    return [_kept(by_name[record.name], record, mask) for record, mask in masks], classes


def _with_segments(scenes: list[Scene], skipped: list[Skipped]) -> list[Scene]:
    """Those with a file of ids for the picture's size, with the segments that have a pixel in it."""
    by_name = {scene.name: scene for scene in scenes}

    def read(record: Record) -> tuple[np.ndarray, set[int]]:
        scene = by_name[record.name]
        width, height = size = stored_size(record.source)
        if scene.size is not None and tuple(scene.size) != size:
            raise UnreadableImageError(_other_size(scene.size, size))
        ids = read_ids(_path(scene.mask))
        if ids.shape != (height, width):
            raise UnreadableImageError(
                f"its file of segments has {ids.shape[1]} x {ids.shape[0]} pixels, the picture {width} x {height}"
            )
        found = set(np.unique(ids).tolist()) - {0}
        if not found & {segment.id for segment in scene.segments or ()}:
            raise UnreadableImageError("no pixel of its file of segments is of a segment that is listed")
        return ids, found

    kept = []
    files, bad = try_each([scene.record for scene in scenes], read)
    skipped.extend(bad)
    for record, (ids, found) in files:
        scene = by_name[record.name]
        listed = scene.segments or ()
        missing = [segment.id for segment in listed if segment.id not in found]
        skipped.extend(Skipped(f"{scene.name}, segment {id}", "no pixel in its file of segments") for id in missing)
        segments = tuple(segment for segment in listed if segment.id in found)
        if stray := sorted(found - {segment.id for segment in listed}):
            skipped.append(Skipped(f"{scene.name}, segment {stray[0]}", _stray(ids, stray)))
        inside = isinstance(record.source, np.ndarray)
        mask = numbered(ids, segments) if inside else scene.mask
        kept.append(replace(scene, size=(ids.shape[1], ids.shape[0]), mask=mask, segments=segments))
    return kept


def _stray(ids: np.ndarray, stray: list[int]) -> str:
    more = f", as are {len(stray) - 1} more" if len(stray) > 1 else ""
    return f"not among those listed{more}; {int(np.isin(ids, stray).sum())} pixels are left out"


def _path(mask: Path | np.ndarray | None) -> Path:
    if not isinstance(mask, Path):
        raise UnreadableImageError("no mask")
    return mask


def _kept(scene: Scene, record: Record, mask: np.ndarray) -> Scene:
    """With its mask in memory where its picture is too."""
    height, width = mask.shape
    inside = isinstance(record.source, np.ndarray)
    return replace(scene, size=(width, height), mask=mask if inside else scene.mask, things=None)


def _with_things(scenes: list[Scene], skipped: list[Skipped]) -> list[Scene]:
    """Those whose annotations are made for the picture's size, without things that are none."""
    kept = []
    for scene in scenes:
        size = stored_size(scene.record.source)
        if scene.size is not None and tuple(scene.size) != size:
            skipped.append(Skipped(scene.name, _other_size(scene.size, size)))
        else:
            kept.append(replace(scene, size=size, things=tidied(scene, size, skipped)))
    return kept


def _other_size(told: tuple[int, int], size: tuple[int, int]) -> str:
    return f"annotated as {told[0]} x {told[1]} pixels, the picture has {size[0]} x {size[1]}"


def _on_background(scene: Scene) -> Scene:
    """With labels that count the background too."""
    return replace(scene, things=tuple(replace(thing, label=thing.label + 1) for thing in scene.things or ()))


def _painted(scene: Scene) -> Scene:
    assert scene.size is not None
    width, height = scene.size
    return replace(scene, mask=painted(scene.things or (), height, width), things=None)


def _samples(scenes: list[Scene], classes: tuple[str, ...], listing: SceneListing, wanted: Wanted) -> SceneSamples:
    return SceneSamples(scenes, classes, listing.skipped, wanted=wanted, colours=listing.colours)


def _renumbered(listing: SceneListing, own: Sequence[str], classes: Sequence[str], spec: str | Path) -> SceneListing:
    """The listing of other data, its labels those of the training's classes of the same names."""
    unknown = sorted(set(own) - set(classes))
    if unknown:
        raise DataError(
            f"{spec}: the class {', '.join(map(repr, unknown[:5]))} was never seen in training (which has "
            f"{', '.join(map(repr, classes[:10]))}{', ...' if len(classes) > 10 else ''})"
        )
    if any(scene.segments is not None for scene in listing.scenes):
        return replace(listing, scenes=[_relabelled(scene, own, classes) for scene in listing.scenes])
    if _has_masks(listing):
        raise DataError(f"{spec}: its classes are numbered otherwise than the training's; give classes.txt its order")
    shift = len(own) - len(listing.classes or ())
    places = {label - shift: list(classes).index(name) - shift for label, name in enumerate(own)}
    scenes = [
        replace(scene, things=tuple(replace(thing, label=places[thing.label]) for thing in scene.things or ()))
        for scene in listing.scenes
    ]
    return replace(listing, scenes=scenes)


def _relabelled(scene: Scene, own: Sequence[str], classes: Sequence[str]) -> Scene:
    places = [list(classes).index(name) for name in own]
    segments = tuple(replace(segment, label=places[segment.label]) for segment in scene.segments or ())
    return replace(scene, segments=segments)


def _first(skipped: list[Skipped]) -> str:
    return f"; the first left out is {skipped[0].path}: {skipped[0].reason}" if skipped else ""


def _digest(scene: Scene) -> Any:
    if scene.segments is not None:
        return [[segment.id, segment.label, segment.crowd] for segment in scene.segments]
    if scene.things is not None:
        return [[*thing.box, thing.label, thing.crowd] for thing in scene.things]
    return zlib.crc32(scene.mask.tobytes()) if isinstance(scene.mask, np.ndarray) else None
