"""What a model will cost here, from what its pieces cost: nothing is built that was measured before.

Parameters and multiply-adds of a piece follow from its shapes. Its times are measured once on this machine and kept in
a table on disk, by what the piece is and the size of the map it works on: what it takes where other work came before,
and right after its like, whose code the processor still has at hand. All times are in proportion to that of the other
work, which is timed with each of them: how busy the machine is at the moment falls on both. The sum over the pieces is
scaled by what whole compositions took for what their pieces add up to.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ommatid.measuring.machine import describe_machine
from ommatid.measuring.macs import count_macs
from ommatid.measuring.timing import Call, alternate, quartiles, thread_count
from ommatid.models.backbones.pyramid import Pyramid, PyramidConfig
from ommatid.models.elements import Element, elements, whole
from ommatid.nn.deploy import deployed_copy
from ommatid.nn.shapes import LayersWithoutValues
from ommatid.runs.files import write_json
from ommatid.runs.run import read_json

ROUNDS, SECONDS, WHOLE_SECONDS = 60, 0.25, 1.5
"""Timed calls at most, and when no more are begun: of a piece, and of a whole composition."""

OTHERS = (
    ("depthwise_conv", "window", "channel_attention", "efficient_modulation"),
    ("attention", "neighborhood", "scale_aware", "token_mlp"),
    ("spatial_reduction", "retention", "high_low_conv", "transposed"),
)
OTHER_CHANNEL_MIXERS = ("mlp", "mbconv", "conv_glu", "swiglu")
"""Mixers of what works between the timed calls: of so many kinds that it drives out code as well as numbers."""


class Times(NamedTuple):
    """Milliseconds of a piece: where other work came before, and right after another piece of the same key."""

    first: float
    again: float


@dataclass(frozen=True)
class PredictedCost:
    """What a composition is going to cost; `latency_ms` of one image."""

    parameters: int
    macs: int
    latency_ms: float


class CostTable:
    """Costs of pieces, those measured before and those measured when they are first asked for.

    Configs are of any kind that `elements` takes apart; one table is for one kind, as its scale is. Times are those of
    a machine as busy as it was when the first was measured.

    Args:
        path: of the table; `usual_place(threads)` where None.
        threads: that a forward pass uses; PyTorch's present number where None.
    """

    def __init__(self, path: Path | None = None, *, threads: int | None = None) -> None:
        self.threads = threads or torch.get_num_threads()
        self.path = path or usual_place(self.threads)
        table = read_json(self.path) if self.path.is_file() else {}
        self.times = {key: Times(*both) for key, both in table.get("times", {}).items()}
        self.macs: dict[str, int] = table.get("macs", {})
        self.scale: float | None = table.get("scale")
        self.other_ms: float | None = table.get("other_ms")
        self._parameters: dict[str, int] = {}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        machine = describe_machine() | {"threads": self.threads}
        facts = {"machine": machine, "scale": self.scale, "other_ms": self.other_ms}
        write_json(self.path, facts | {"times": self.times, "macs": self.macs})

    def parameters(self, config: Any) -> int:
        """From shapes alone."""
        return sum(self._parameters_of(element) for element in elements(config))

    def multiply_adds(self, config: Any) -> int:
        """From shapes alone."""
        return sum(self._macs_of(element) for element in elements(config))

    def latency_ms(self, config: Any, *, limit: float = math.inf) -> float:
        """Of one image: pieces that are not in the table are measured first, up to where the sum exceeds the limit."""
        scale, total, seen = self.scale or 1.0, 0.0, set[str]()
        for element in elements(config):
            times = self._times_of(element)
            total += scale * (times.again if element.key in seen else times.first)
            seen.add(element.key)
            if total > limit:
                break
        return total

    def predict(self, config: Any) -> PredictedCost:
        return PredictedCost(self.parameters(config), self.multiply_adds(config), self.latency_ms(config))

    def calibrate(self, configs: Iterable[Any]) -> None:
        """Sets the scale: the median of what whole compositions take over what their pieces add up to."""
        self.scale = None
        ratios = [self.measured_ms(config) / self.latency_ms(config) for config in configs]
        self.scale = float(np.median(ratios))

    def measured_ms(self, config: Any) -> float:
        """What a whole composition takes for one image, deployed."""
        model, (rows, columns, channels) = whole(config)
        return self._measured([model], torch.randn(1, channels, rows, columns), WHOLE_SECONDS)[0]

    def _times_of(self, element: Element) -> Times:
        if element.key not in self.times:
            piece, features = element.build(), torch.randn(1, *element.size)
            self.times[element.key] = Times(*self._measured([piece, piece], features, SECONDS))
        return self.times[element.key]

    def _measured(self, modules: Sequence[nn.Module], x: Tensor, seconds: float) -> list[float]:
        other, *taken = _timed_ms(modules, x, self.threads, seconds)
        self.other_ms = self.other_ms or other
        return [self.other_ms * each / other for each in taken]

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
    told = f"{machine['processor']} {machine.get('instruction_sets')} {machine['torch']} {threads} {OTHERS}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "ommatid" / f"{kind}-costs-{hashlib.sha256(told.encode()).hexdigest()[:8]}.json"


def _shapes(element: Element) -> nn.Module:
    with LayersWithoutValues():
        return element.build().eval().to("meta")


def _timed_ms(modules: Sequence[nn.Module], x: Tensor, threads: int, seconds: float) -> list[float]:
    """Of the other work, and of deployed copies of modules, one after another: the lower quartiles of some passes.

    The other work comes before the first module: inside a model, too, a piece never finds the processor's caches as it
    left them. With one thread it is the processor's time that counts, which other programs disturb less.
    """
    copies = [deployed_copy(module) for module in modules]
    clock = time.process_time if threads == 1 else time.perf_counter
    with thread_count(threads), torch.inference_mode():
        calls: list[Call] = [_other_work(), *(partial(subject, x) for subject in copies)]
        times = alternate(calls, torch.device("cpu"), rounds=ROUNDS, seconds=seconds, clock=clock)
    return [1e3 * quartiles(list(taken)).p25 for taken in zip(*times, strict=True)]


@cache
def _other_work() -> Call:
    """A forward pass of a model of many kinds of parts."""
    with torch.random.fork_rng(devices=[]):
        config = PyramidConfig(
            image_size=32,
            patch_size=2,
            dims=(32, 64, 128),
            depths=(4, 4, 4),
            mixer=OTHERS,
            channel_mixer=(OTHER_CHANNEL_MIXERS,),
            mlp_ratios=2.0,
            num_classes=10,
        )
        model, image = deployed_copy(Pyramid(config)), torch.randn(1, 3, 32, 32)
    return lambda: model(image)
