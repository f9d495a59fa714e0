"""What can be said of a composition without running it: shapes, parameters and multiply-adds of every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ommatid.measuring.macs import counted
from ommatid.models import create_model
from ommatid.models.backbones.pyramid import Pyramid, PyramidConfig
from ommatid.models.composition import by_stage
from ommatid.nn.parts.registry import named
from ommatid.nn.shapes import LayersWithoutValues

FROM_DATA = ("image_size", "num_classes")


@dataclass(frozen=True)
class StageRow:
    """One step of a model: what it is made of, the map it gives (height, width, channels), what it costs."""

    name: str
    parts: str
    shape: tuple[int, int, int]
    blocks: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Sketch:
    """All steps of a composition, and its config as YAML: a file for `compare --models`."""

    rows: tuple[StageRow, ...]
    parameters: int
    macs: int
    yaml: str


def sketch(fields: dict[str, Any], image_size: int) -> Sketch:
    """Sketches a pyramid for square images.

    fields: of its config. Raises ValueError, in one line, for a composition that cannot be built.
    """
    with LayersWithoutValues():
        model = create_model("pyramid", **fields).eval().to("meta")
    assert isinstance(model, Pyramid)
    image = torch.empty(1, model.config.in_channels, image_size, image_size, device="meta")
    counts, shapes = _counted(model, image)
    config = model.config
    assert isinstance(config, PyramidConfig)
    rows = [StageRow("stem", config.stem, shapes[0], 1, _parameters(model.stem), counts.get("stem", 0))]
    for number, stage in enumerate(model.stages):
        rows.append(
            StageRow(
                f"stage {number + 1}",
                _parts(config, number),
                shapes[number + 1],
                config.depths[number],
                _parameters(stage),
                counts.get(f"stages.{number}", 0),
            )
        )
    head = _parameters(model.norm) + _parameters(model.head)
    rows.append(StageRow("head", "mean, linear", (1, 1, config.num_classes), 1, head, counts.get("head", 0)))
    return Sketch(tuple(rows), _parameters(model), sum(row.macs for row in rows), yaml_of(fields))


def yaml_of(fields: dict[str, Any]) -> str:
    """The composition as a file for `ommatid compare --models`; what follows from the data is left to them."""
    own = {name: value for name, value in fields.items() if name not in FROM_DATA}
    return yaml.safe_dump({"model": "pyramid", **own}, sort_keys=False, default_flow_style=None, width=100)


def _counted(model: Pyramid, image: Tensor) -> tuple[dict[str, int], list[tuple[int, int, int]]]:
    """Multiply-adds by module name, and the shape of each map behind the stem and the stages."""
    shapes: list[tuple[int, int, int]] = []

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        shapes.append((output.shape[1], output.shape[2], output.shape[3]))

    hooks = [part.register_forward_hook(note) for part in (model.stem, *model.stages)]
    with counted() as counter:
        model(image)
    for hook in hooks:
        hook.remove()
    found = {name.partition(".")[2]: sum(kinds.values()) // 2 for name, kinds in counter.get_flop_counts().items()}
    return found, shapes


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _parts(config: PyramidConfig, stage: int) -> str:
    """The mixers of a stage in words."""
    mixers, channel_mixers = (
        " / ".join(named(choice)[0] for choice in by_stage(role, getattr(config, role), len(config.dims))[stage])
        for role in ("mixer", "channel_mixer")
    )
    return f"{mixers} + {channel_mixers}"
