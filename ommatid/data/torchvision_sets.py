"""Data sets that torchvision knows by name: the one source that may use a network, as naming it asks for."""

from __future__ import annotations

import difflib
import inspect
import os
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ommatid.data.decode import to_rgb
from ommatid.data.errors import DataError
from ommatid.data.record import VAL_NAMES, Listing, Record

WRITING = {"EMNIST", "KMNIST", "MNIST", "Omniglot", "QMNIST", "RenderedSST2", "SVHN", "USPS"}
"""Data sets of digits, letters and words, whose mirror images mean nothing or something else."""


def list_torchvision(name: str) -> Listing:
    """List `torchvision.datasets.NAME`, downloaded to $OMMATID_DATA (or ~/.cache/ommatid) where it is not there yet.

    Its own train and validation (or test) parts are kept where it has them. Raises DataError for an unknown name, a
    data set whose items are not (image, class), or a failed download.
    """
    kind = _kind(name)
    parts = _parts(kind, name)
    classes = _class_names(parts)
    records = []
    for split, dataset in parts.items():
        prefix = f"{name}/{split or 'all'}"
        for index, label in enumerate(_labels(dataset)):
            source = partial(_item, dataset, index)
            records.append(Record(f"{prefix}/{index:06d}", classes[label], split, source))
    return Listing(records, classes=classes, may_flip=name not in WRITING)


def _kind(name: str) -> type:
    from torchvision import datasets

    if name in datasets.__all__:
        return getattr(datasets, name)
    close = difflib.get_close_matches(name, datasets.__all__, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(close)}?" if close else "see torchvision.datasets for the names"
    raise DataError(f"torchvision has no data set {name!r}; {hint}")


def _parts(kind: type, name: str) -> dict[str | None, Any]:
    """{"train": ..., "val": ...}, or {None: ...} for a data set that comes in one part."""
    accepted = inspect.signature(kind).parameters
    if "train" in accepted:
        return {"train": _construct(kind, name, train=True), "val": _construct(kind, name, train=False)}
    if "split" not in accepted:
        return {None: _construct(kind, name)}
    train = _construct(kind, name)
    # Where training is "trainval" by default, "val" is a part of it.
    for split in ("test",) if "val" in str(accepted["split"].default) else VAL_NAMES:
        try:
            return {"train": train, "val": _construct(kind, name, split=split)}
        except DataError:
            raise
        except ValueError:
            continue
    return {None: train}


def _construct(kind: type, name: str, **part: Any) -> Any:
    accepted = inspect.signature(kind).parameters
    root = Path(os.environ.get("OMMATID_DATA") or Path.home() / ".cache" / "ommatid") / name
    options: dict[str, Any] = part | ({"root": root} if "root" in accepted else {})
    try:
        return kind(**options)
    except ValueError:  # torchvision's answer to a split that the data set does not have
        raise
    except Exception as absent:  # each data set has its own way of saying that its files are not there
        if "download" not in accepted:
            raise DataError(f"torchvision:{name} cannot be opened in {root}: {_first_line(absent)}") from absent
    try:
        root.mkdir(parents=True, exist_ok=True)
        return kind(**options, download=True)
    except Exception as error:  # network, disk, checksum
        raise DataError(f"torchvision:{name} cannot be downloaded to {root}: {_first_line(error)}") from error


def _labels(dataset: Any) -> list[int]:
    for attribute in ("targets", "labels", "_labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [int(label) for label in labels]
    try:
        return [int(dataset[index][1]) for index in range(len(dataset))]
    except (TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"torchvision:{type(dataset).__name__} does not give (image, class) pairs; choose another"
        ) from error


def _class_names(parts: dict[str | None, Any]) -> tuple[str, ...]:
    known = getattr(next(iter(parts.values())), "classes", None)
    if known:
        return tuple(str(name) for name in known)
    highest = max(max(_labels(dataset)) for dataset in parts.values())
    return tuple(str(label) for label in range(highest + 1))


def _item(dataset: Any, index: int) -> Image.Image:
    return to_rgb(dataset[index][0])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
