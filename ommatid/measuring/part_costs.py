"""What a model will cost here, from what its pieces cost: nothing is built that was measured before.

Parameters and multiply-adds of a piece follow from its shapes. Its time is measured once on this machine and kept in a
table on disk, by what the piece is and the size of the map it works on. The sum over the pieces is scaled by what whole
compositions took for what their pieces add up to.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.macs import count_macs
from ommatid.measuring.timing import alternate, quartiles, thread_count
from ommatid.models.backbones.pyramid import Pyramid, PyramidConfig
from ommatid.models.elements import Element, elements, whole
from ommatid.nn.deploy import deployed_copy
from ommatid.nn.shapes import LayersWithoutValues
from ommatid.runs.files import write_json
from ommatid.runs.run import read_json

ROUNDS, SECONDS, WHOLE_SECONDS = 60, 0.25, 1.5
"""Timed calls at most, and when no more are begun: of a piece, and of a whole composition."""

OTHERS = ("depthwise_conv", "window", "attention")
"""Mixers of what works between the timed calls."""


@dataclass(frozen=True)
class PredictedCost:
    """What a composition is going to cost; `latency_ms` of one image."""

    parameters: int
    macs: int
    latency_ms: float


class CostTable:
    """Costs of pieces, those measured before and those measured when they are first asked for.

    Configs are of any kind that `elements` takes apart; one table is for one kind, as its scale is.

    Args:
        path: of the table; `usual_place(threads)` where None.
        threads: that a forward pass uses; PyTorch's present number where None.
    """

    def __init__(self, path: Path | None = None, *, threads: int | None = None) -> None:
        self.threads = threads or torch.get_num_threads()
        self.path = path or usual_place(self.threads)
        table = read_json(self.path) if self.path.is_file() else {}
        self.milliseconds: dict[str, float] = table.get("milliseconds", {})
        self.macs: dict[str, int] = table.get("macs", {})
        self.scale: float | None = table.get("scale")
        self._parameters: dict[str, int] = {}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"machine": describe_machine() | {"threads": self.threads}, "scale": self.scale}
        write_json(self.path, facts | {"milliseconds": self.milliseconds, "macs": self.macs})

    def parameters(self, config: Any) -> int:
        """From shapes alone."""
        return sum(self._parameters_of(element) for element in elements(config))

    def multiply_adds(self, config: Any) -> int:
        """From shapes alone."""
        return sum(self._macs_of(element) for element in elements(config))

    def latency_ms(self, config: Any, *, limit: float = math.inf) -> float:
        """Of one image: pieces that are not in the table are measured first, up to where the sum exceeds the limit."""
        scale, total = self.scale or 1.0, 0.0
        for element in elements(config):
            total += scale * self._milliseconds_of(element)
            if total > limit:
                break
        return total

    def predict(self, config: Any) -> PredictedCost:
        return PredictedCost(self.parameters(config), self.multiply_adds(config), self.latency_ms(config))

    def calibrate(self, configs: Iterable[Any]) -> None:
        """Sets the scale: the median of what whole compositions take over what their pieces add up to."""
        self.scale = None
        ratios = [measured_ms(config, self.threads) / self.latency_ms(config) for config in configs]
        self.scale = float(np.median(ratios))

    def _milliseconds_of(self, element: Element) -> float:
        if element.key not in self.milliseconds:
            self.milliseconds[element.key] = _timed_ms(element.build(), element.size, self.threads)
        return self.milliseconds[element.key]

    def _parameters_of(self, element: Element) -> int:
        if element.key not in self._parameters:
            self._parameters[element.key] = sum(parameter.numel() for parameter in _shapes(element).parameters())
        return self._parameters[element.key]

    def _macs_of(self, element: Element) -> int:
        if element.key not in self.macs:
            features = torch.empty(1, *element.size, device="meta")
            self.macs[element.key] = count_macs(_shapes(element), features)
        return self.macs[element.key]


def usual_place(threads: int, kind: str = "part") -> Path:
    """Where the table of this machine, this PyTorch and this number of threads is, for one kind of models."""
    machine = describe_machine()
    told = f"{machine['processor']} {machine.get('instruction_sets')} {machine['torch']} {threads}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "ommatid" / f"{kind}-costs-{hashlib.sha256(told.encode()).hexdigest()[:8]}.json"


def measured_ms(config: Any, threads: int) -> float:
    """What a whole composition takes for one image, deployed."""
    return _timed_ms(*whole(config), threads, image=True)


def _shapes(element: Element) -> nn.Module:
    with LayersWithoutValues():
        return element.build().eval().to("meta")


def _timed_ms(module: nn.Module, size: tuple[int, int, int], threads: int, *, image: bool = False) -> float:
    """The lower quartile of some forward passes of a deployed copy: what it takes where nothing comes in between.

    Between two of them another model works: inside a model, too, a piece never finds the processor's caches as it left
    them. With one thread it is the processor's time that counts, which other programs disturb less.

    image: `module` is no piece but a model that takes images.
    """
    rows, columns, channels = size
    subject, other = deployed_copy(module), _other_work()
    x = torch.randn(1, channels, rows, columns) if image else torch.randn(1, rows, columns, channels)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = WHOLE_SECONDS if image else SECONDS
    with thread_count(threads), torch.inference_mode():
        calls = [other, lambda: subject(x)]
        times = alternate(calls, torch.device("cpu"), rounds=ROUNDS, seconds=seconds, clock=clock)
    return 1e3 * quartiles([taken for _, taken in times]).p25


@cache
def _other_work() -> Callable[[], object]:
    """A forward pass of a small model of several kinds of parts."""
    with torch.random.fork_rng(devices=[]):
        config = PyramidConfig(image_size=32, dims=(32, 64, 96), depths=(1, 1, 1), mixer=OTHERS, num_classes=10)
        model, image = deployed_copy(Pyramid(config)), torch.randn(1, 3, 32, 32)
    return lambda: model(image)
