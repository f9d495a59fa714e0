"""models: what can be built here by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from ommatid.catalog.systems import all_systems
from ommatid.catalog.variants import counted_parameters
from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import DEFAULT_SIZE, image_for
from ommatid.models import create_model, families, list_models
from ommatid.models.config import suggest
from ommatid.models.registry import find, is_classifier
from ommatid.models.sizes import pair
from ommatid.nn.shapes import LayersWithoutValues
from ommatid.runs.files import check_writable, write_json

COUNTED = 24
"""MACs take a trial run, if one without arithmetic: lists of more models than this leave them out."""


@dataclass(frozen=True)
class ModelRow:
    """A variant that `create_model` builds.

    `size` is its native image side, (height, width); `title` its paper's, or what its module says it is. What takes no
    single images (a part that models are built with, a network for videos) has neither `size` nor `macs`.
    """

    variant: str
    family: str
    parameters: int
    size: tuple[int, int] | None
    macs: int | None
    title: str


def models_table(pattern: str = "*", *, json_path: str | Path | None = None) -> list[ModelRow]:
    """The variants that match a wildcard pattern such as `"swin_*"`, by name; with MACs if COUNTED or fewer.

    json_path: where to write the rows as JSON.

    Raises:
        ValueError: none matches; with close names.
    """
    if json_path is not None:
        check_writable(Path(json_path))
    names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {pattern!r}{suggest(pattern, [*list_models(), *families()])}")
    titles = {system.id: system.title for system in all_systems()}
    rows = [model_row(name, titles, with_macs=len(names) <= COUNTED) for name in names]
    if json_path is not None:
        write_json(Path(json_path), [asdict(row) for row in rows])
    return rows


def model_row(name: str, titles: dict[str, str], *, with_macs: bool) -> ModelRow:
    family, config = find(name)
    parameters = counted_parameters().get(name) or count_parameters(name)
    size = pair(getattr(config, "image_size", DEFAULT_SIZE)) if is_classifier(family, config) else None
    macs = macs_at(name, size) if with_macs and size else None
    title = titles.get(family.id) or (family.module.__doc__ or "").partition("\n")[0]
    return ModelRow(name, family.id, parameters, size, macs, title)


def count_parameters(name: str) -> int:
    """Parameters, from shapes alone."""
    return sum(parameter.numel() for parameter in skeleton(name).parameters())


def macs_at(name: str, size: tuple[int, int]) -> int:
    """MACs of one image, from shapes alone."""
    model = skeleton(name)
    return count_macs(model, image_for(model, 1, size))


def skeleton(name: str) -> nn.Module:
    """The model in evaluation mode: shapes on the meta device, no values, no memory."""
    with LayersWithoutValues():
        return create_model(name).eval().to("meta")
