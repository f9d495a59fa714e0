"""Parts of a trained super-network as what a search chooses from: each is judged as it is, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ommatid.measuring.part_costs import CostTable, usual_place
from ommatid.methods.composing.search import Tried
from ommatid.methods.subnets import SubnetSpace
from ommatid.models.subnet_elements import SizedSubnet
from ommatid.runs.exploration import write_winner
from ommatid.training.methods import find_method
from ommatid.training.methods.progressive_shrinking import ProgressiveShrinking
from ommatid.workflows.composition_trial import Curve
from ommatid.workflows.subnet_trial import Source, SubnetTrial


class Subnets:
    """Raises ValueError where super-network or images are not, or do not fit each other."""

    noun, done, family = "sub-networks", "judged", "once_for_all"

    def __init__(self, source: Source, *, seed: int, threads: int | None) -> None:
        opened = source.open()
        self.source, self.images = source, opened.images
        method, side = find_method(opened.run.config.get("method")), opened.trained.facts.size
        sides = method.sides(side) if isinstance(method, ProgressiveShrinking) else (side,)
        self.space = SubnetSpace(opened.model.config, sides)
        threads = threads or torch.get_num_threads()
        self.table = CostTable(usual_place(threads, "subnet"), threads=threads)
        self.options = {"supernet": source.supernet, "seed": seed}
        self.facts = {"weights": source.digest}
        self.title = f"Sub-networks of {opened.trained.facts.name} for {Path(self.images.origin).name}"

    def config(self, fields: dict[str, Any]) -> SizedSubnet:
        return self.space.config(fields)

    def trial(self, tried: Tried, predicted_ms: float, path: Path, rivals: Sequence[Curve]) -> SubnetTrial:
        return SubnetTrial(tried.number, tried.fields, predicted_ms, path, self.source)

    def name(self, fields: Mapping[str, Any]) -> str:
        return f"depths {'-'.join(map(str, fields['active_depths']))}, {fields['side']} pixels"

    def write(self, folder: Path, front: Mapping[int, dict[str, Any]], winner: Path | None) -> None:
        if winner is not None:
            write_winner(folder, winner)

    def advice(self, folder: Path) -> str:
        return f"Use it as any run: ommatid evaluate {folder / 'winner'}; ommatid export {folder / 'winner'}"
