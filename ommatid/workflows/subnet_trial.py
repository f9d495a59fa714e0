"""One part of a super-network, cut out and judged, as any process of a search does it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch

from ommatid.data import ImageData, calibration_images, open_data
from ommatid.models.backbones.once_for_all import OnceForAll, Subnet
from ommatid.models.subnets import Setting
from ommatid.models.weights import save
from ommatid.nn.recalibration import recalibrated
from ommatid.runs.data_place import data_place
from ommatid.runs.evaluation import own_run
from ommatid.runs.files import replacing
from ommatid.runs.run import Run
from ommatid.runs.trained import Trained, find_weights, open_trained
from ommatid.workflows.composition_trial import TrialResult
from ommatid.workflows.evaluate_classifier import answers, judge

BATCH = 64
"""Images that are judged at a time."""


@dataclass(frozen=True)
class Opened:
    """The super-network, its run, and the images that its parts are judged on."""

    trained: Trained
    model: OnceForAll
    run: Run
    images: ImageData


@dataclass(frozen=True)
class Source:
    """Where the super-network and the images are; digest: of its weights, so that others are not taken for them."""

    supernet: str
    data: str
    digest: str

    @classmethod
    def of(cls, supernet: str, data: str) -> Self:
        """Raises ValueError, in one line, where there are no weights."""
        weights, _ = find_weights(supernet)
        return cls(supernet, data, hashlib.sha256(weights.read_bytes()).hexdigest()[:16])

    def open(self) -> Opened:
        """Raises ValueError, in one line, where they are not, or do not fit each other."""
        return _opened(self)


@cache
def _opened(source: Source) -> Opened:
    trained = open_trained(source.supernet)
    if not isinstance(trained.model, OnceForAll):
        raise ValueError(
            f"{source.supernet} holds a {trained.facts.name}, which has no sub-networks: train an ofa_mbv3 with "
            "--method progressive_shrinking"
        )
    run = own_run(trained)
    if run is None:
        raise ValueError(f"{trained.path} lies outside of its run folder, which says how its images were split")
    own = source.data == data_place(run.config["data"])
    images = open_data(source.data, split=run.split if own else None)
    if images.classes != trained.facts.classes:
        raise ValueError(f"{source.data} has other classes than {source.supernet} was trained for")
    return Opened(trained, trained.model, run, images)


@dataclass(frozen=True)
class SubnetTrial:
    """A sub-network to judge.

    number, fields: of the search. predicted_ms: its latency. path: its run folder.
    """

    number: int
    fields: Mapping[str, Any]
    predicted_ms: float
    path: Path
    source: Source

    def run(self) -> TrialResult:
        """Cuts it out, measures its batch norms anew, writes its run folder, and judges it."""
        opened, side = self.source.open(), self.fields["side"]
        opened.model.activate(
            Setting(*(tuple(self.fields[f"active_{name}"]) for name in ("kernels", "expands", "depths")))
        )
        subnet = recalibrated(opened.model.extract(), calibration_images(opened.images.train, side))
        weights = self._write(opened, subnet)
        trained = replace(opened.trained, model=subnet)
        judged = judge(
            *answers(trained, opened.images.val, batch=BATCH, size=side, device=torch.device("cpu")),
            trained.facts.classes,
        )
        size = weights.stat().st_size / 2**20
        return TrialResult({"accuracy": judged["accuracy"], "top5": judged["top5"], "size_mb": size}, [], stopped=False)

    def _write(self, opened: Opened, subnet: Subnet) -> Path:
        """The folder that a training of this sub-network would have left, but for its curves; the weights' path."""
        facts, own = opened.trained.facts, dict(self.fields)
        side = own.pop("side")
        self.path.mkdir(parents=True, exist_ok=True)
        with replacing(self.path / "best.safetensors") as draft:
            save(subnet, draft, extra=replace(facts, size=side).to_header())
        config = opened.run.config | {"data": self.source.data, "method": None, "weights": None, "size": side}
        shape = opened.run.config["set"] | {"function": "subnet"} | own
        Run.create(self.path, config | {"set": shape}, self._split(opened), opened.run.machine)
        return self.path / "best.safetensors"

    def _split(self, opened: Opened) -> dict[str, Any]:
        images = opened.images
        return {"classes": list(images.classes), "fingerprint": images.fingerprint(), **images.split()}
