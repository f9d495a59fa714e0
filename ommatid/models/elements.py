"""A model taken apart: what it computes one after the other, each piece known by a key and built alone.

Pyramids here; other kinds of models register what they are made of, by the type of their config.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any

from torch import Tensor, nn

from ommatid.models.backbone import classifier
from ommatid.models.backbones.pyramid import Pyramid, PyramidConfig, composed_block, led_to, stem_of
from ommatid.models.sizes import pair
from ommatid.nn.parts import find_part


@dataclass(frozen=True)
class Element:
    """A piece of a composition that works on a map.

    key: the same for pieces that cost the same, in any composition. size: rows, columns and channels of what comes in.
    build: makes it.
    """

    key: str
    size: tuple[int, int, int]
    build: Callable[[], nn.Module]


class Reading(nn.Module):
    """What follows the last stage: norm, mean over the map, classifier; (B, H, W, C) -> (B, classes)."""

    def __init__(self, norm: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean((1, 2)))


@singledispatch
def elements(config: Any) -> Iterator[Element]:
    """The pieces of a model in their order; together they have all its parameters, and do all its work."""
    raise TypeError(f"{type(config).__name__} cannot be taken apart")


@singledispatch
def whole(config: Any) -> tuple[nn.Module, tuple[int, int, int]]:
    """The model itself, and rows, columns and channels of its images."""
    raise TypeError(f"{type(config).__name__} cannot be taken apart")


@whole.register
def _(config: PyramidConfig) -> tuple[nn.Module, tuple[int, int, int]]:
    return Pyramid(config), (*pair(config.image_size), config.in_channels)


@elements.register
def _(config: PyramidConfig) -> Iterator[Element]:
    places = config.places()
    yield element(
        ["stem", config.stem, config.patch_size, config.dims[0]],
        (*pair(config.image_size), config.in_channels),
        partial(stem_of, config),
    )
    size = places[0].size
    for stage, place in enumerate(places):
        incoming = config.dims[stage - 1] if stage else place.dim
        lead = ["lead", config.downsample if stage else "none", config.position, incoming, place.dim]
        yield element(lead, (*size, incoming), partial(led_to, config, stage))
        size = place.size
        for mixer, channel_mixer in config.blocks(stage):
            for role, choice in (("mixer", mixer), ("channel_mixer", channel_mixer)):
                if choice == "none":
                    continue
                alone = (choice, "none") if role == "mixer" else ("none", choice)
                known = [role, choice, place.dim, place.ratio, place.head_dim, config.norm, bool(config.layer_scale)]
                build = partial(composed_block, alone[0], alone[1], place, config, 0.0)
                yield element(known, (*size, place.dim), build)
    last = config.dims[-1]
    yield element(
        ["head", config.norm, last, config.num_classes],
        (*size, last),
        lambda: Reading(find_part("norm", config.norm).make(last), classifier(last, config.num_classes)),
    )


def element(known: list[object], size: tuple[int, int, int], build: Callable[[], nn.Module]) -> Element:
    """One that is known by these facts, and the size of what comes in."""
    return Element(json.dumps([*known, *size]), size, build)
