"""restore: better pictures of the same scenes, from files of any size, kind and number."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ommatid.data import DataError, Skipped, open_images
from ommatid.data.errors import UnreadableImageError
from ommatid.data.picture_file import PictureFile, read_picture, refusal, write_picture, written_name
from ommatid.measuring.measure import usable_device
from ommatid.models.config import require
from ommatid.report.previews import views
from ommatid.report.restore import restore_page
from ommatid.runs.files import replacing, write_json, write_text
from ommatid.runs.restored import Restored, RestoredFolder, stamp
from ommatid.runs.restoring import PictureRestorer
from ommatid.runs.run import read_json
from ommatid.runs.trained import TrainedRestorer
from ommatid.workflows.opening import open_picture_restorer
from ommatid.workflows.progress import PictureBar

SMALLEST_TILE = 32
PREVIEWED = 12
"""So many pictures, the first ones, are on the page to look at; it lists all."""


@dataclass(frozen=True)
class Restorations:
    """The pictures that now lie in `folder`.

    restored: those of this time. earlier: those that an earlier time had left nothing to do for. report: the page.
    """

    folder: Path
    restored: list[Restored]
    earlier: list[Restored]
    skipped: list[Skipped]
    report: Path | None


def restore(
    run_or_weights: str | Path,
    paths: Sequence[str | Path],
    *,
    out: str | Path = "restored",
    tile: int = 256,
    ensemble: bool = False,
    page: bool = True,
    device: str = "cpu",
    progress: bool = True,
) -> Restorations:
    """Restores picture files, and all pictures below folders, each into a file of its own.

    Depth (8 or 16 bits), grey, transparency, EXIF, colour profile and file format stay; what cannot is in a picture's
    notes. A picture that was restored before, from the same file and with the same settings, is passed over.

    Args:
        out: folder for the pictures, under the names that they have below the folder given; and for report.html.
        tile: side in pixels of the part of a picture that the network sees at once; memory grows with its square.
        ensemble: average over the eight ways to turn and flip a tile; eight times as long.
        page: write report.html, with pictures before and after.
        progress: show how far it is.

    Raises:
        ValueError: no restoration network, none of the pictures can be restored, two pictures would become one file or
            a picture its own answer, an impossible value.
    """
    require(tile >= SMALLEST_TILE, "tile", tile, f"{SMALLEST_TILE} or more")
    place = usable_device(device)
    trained = open_picture_restorer(run_or_weights)
    restorer = PictureRestorer(trained.model.to(place), place, tile, ensemble)
    images = open_images(list(paths))
    folder = RestoredFolder(Path(out).expanduser())
    outputs = _outputs(images.files, [Path(path) for path in paths], folder)
    settings = {"weights": _fingerprint(trained.path), "tile": tile, "ensemble": ensemble}
    job = _Job(folder, restorer, settings, frozenset(list(outputs.values())[:PREVIEWED] if page else ()))

    restored, earlier, skipped = [], [], list(images.skipped)
    with PictureBar(len(outputs), progress) as bar:
        for source, output in bar.each(outputs.items()):
            try:
                if done := job.done(source, output):
                    earlier.append(done)
                else:
                    restored.append(job.restore(source, output, bar))
            except (UnreadableImageError, PassedOverError) as reason:
                skipped.append(Skipped(str(source), str(reason)))
    if not restored and not earlier:
        raise DataError(
            f"none of the {len(skipped)} pictures can be restored; the first is {skipped[0].path}: {skipped[0].reason}"
        )
    entries = {entry.output: entry for entry in restored + earlier}
    in_order = [entries[output] for output in outputs.values() if output in entries]
    report = _write_page(trained, job, in_order, skipped) if page else None
    return Restorations(folder.path, restored, earlier, skipped, report)


class PassedOverError(Exception):
    """A picture that is not restored, though it can be read. The message is the reason, without the file's name."""


@dataclass(frozen=True)
class _Job:
    """What is the same for all pictures of one call."""

    folder: RestoredFolder
    restorer: PictureRestorer
    settings: dict[str, Any]
    previewed: frozenset[str]

    def done(self, source: Path, output: str) -> Restored | None:
        """What an earlier time left, if that is all. Raises PassedOverError where a file would be lost."""
        earlier, path = self.folder.find(output), self.folder.path / output
        if earlier is None and path.exists():
            raise PassedOverError(f"{path} is there already and was not made by restore; name another folder for it")
        if earlier is not None and earlier.source != str(source.resolve()):
            raise PassedOverError(f"{path} was made from {earlier.source}; name another folder for it")
        return earlier if earlier is not None and earlier.answers(source, self.settings) else None

    def restore(self, source: Path, output: str, bar: PictureBar) -> Restored:
        """Raises UnreadableImageError or PassedOverError."""
        path, began = self.folder.path / output, time.perf_counter()
        source_stamp, picture = stamp(source), read_picture(source)
        height, width = picture.pixels.shape[:2]
        scale = self.restorer.model.scale
        if reason := refusal(picture.format, scale * width, scale * height):
            raise PassedOverError(reason)
        bar.begin(source.name, scale**2 * height * width)
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = self.restorer(picture, bar.advance)
        with replacing(path) as draft:
            _write(answer, draft)
            entry = Restored(
                output=output,
                source=str(source.resolve()),
                source_stamp=source_stamp,
                output_stamp=stamp(draft),
                settings=self.settings,
                before=(width, height),
                after=(scale * width, scale * height),
                seconds=time.perf_counter() - began,
                notes=picture.notes,
            )
            self.folder.add(entry)
        self._write_preview(output, picture, answer)
        return entry

    def preview(self, output: str) -> Path:
        """Where what the page shows of a picture is kept, so that a later time can show it too."""
        return self.folder.path / ".previews" / f"{output}.json"

    def _write_preview(self, output: str, before: PictureFile, after: PictureFile) -> None:
        path = self.preview(output)
        if output in self.previewed:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, [view._asdict() for view in views(before, after)])
        else:
            path.unlink(missing_ok=True)  # that of an earlier answer


def _write(picture: PictureFile, path: Path) -> None:
    try:
        write_picture(picture, path)
    except Exception as error:  # an encoder may refuse a picture in any way; a disk that is full stops everything
        if isinstance(error, OSError) and error.errno:
            raise
        raise PassedOverError(f"it cannot be written as {picture.format}: {' '.join(str(error).split())}") from error


def _outputs(files: Sequence[Path], paths: Sequence[Path], folder: RestoredFolder) -> dict[Path, str]:
    """For each picture, the name of its answer inside the folder. Raises ValueError where one would be lost."""
    # The folder may lie inside one that is given; its own pictures are not to be restored once more.
    own = {(folder.path / output).resolve() for output in folder.entries}
    outputs: dict[Path, str] = {}
    taken: dict[Path, Path] = {}
    for file in files:
        if (source := file.resolve()) in own:
            continue
        output = _output(file, paths)
        other = taken.setdefault((folder.path / output).resolve(), source)
        if other != source:
            raise ValueError(f"{file} and {other} would both become {folder.path / output}; restore them one by one")
        outputs[file] = output
    for source in {file.resolve() for file in outputs} & set(taken):
        raise ValueError(f"{source} would be overwritten by an answer; name another folder for the answers")
    if not outputs:
        raise DataError(f"all pictures there are answers already: {folder.path} is where they were written")
    return outputs


def _output(file: Path, paths: Sequence[Path]) -> str:
    """The path below the folder that the file was found in, or its name; below that folder's name if one of several."""
    root = next((path for path in paths if path != file and file.is_relative_to(path)), None)
    inside = file.parent.relative_to(root) if root else Path()
    several = Path(root.resolve().name) if root and len(paths) > 1 else Path()
    with Image.open(file) as image:
        return (several / inside / written_name(file.name, image.format)).as_posix()


def _fingerprint(weights: Path) -> str:
    """Of a file of weights, or of a program and the file of weights beside it."""
    parts = [path for path in (weights, weights.with_suffix(".bin")) if path.is_file()]
    digests = []
    for path in parts:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return "-".join(digests)


def _write_page(trained: TrainedRestorer, job: _Job, entries: Sequence[Restored], skipped: Sequence[Skipped]) -> Path:
    result = {
        "model": trained.facts.name,
        "degrade": trained.facts.degrade,
        "restored": [_row(entry, job) for entry in entries],
        "skipped": [skip._asdict() for skip in skipped],
        "settings": {"file": str(trained.path)} | job.settings | {"device": str(job.restorer.device)},
    }
    path = job.folder.path / "report.html"
    write_text(path, restore_page(result))
    return path


def _row(entry: Restored, job: _Job) -> dict[str, Any]:
    preview = job.preview(entry.output)
    shown = entry.output in job.previewed and preview.is_file()
    return {
        "name": entry.output,
        "before": entry.before,
        "after": entry.after,
        "seconds": entry.seconds,
        "notes": entry.notes,
        "views": read_json(preview) if shown else [],
    }
