"""The parts of a trained super-network that a search chooses from (arXiv 1908.09791)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ommatid.methods.composing.space import Chooser
from ommatid.models.subnet_elements import SizedSubnet
from ommatid.models.subnets import OnceForAllConfig


@dataclass(frozen=True)
class SubnetSpace:
    """Sub-networks of `supernet` for images of one of `sides`, in pixels."""

    supernet: OnceForAllConfig
    sides: Sequence[int]

    def choose(self, trial: Chooser) -> dict[str, Any]:
        """side, and the fields of the sub-network's config; blocks that it skips are as in the largest."""
        whole, most = self.supernet.largest, max(self.supernet.depths)
        kernels, expands = list(whole.kernels), list(whole.expands)
        side = trial.suggest_categorical("side", tuple(self.sides))
        depths = [
            trial.suggest_categorical(f"depth_{stage + 1}", self.supernet.depths)
            for stage, _ in enumerate(whole.depths)
        ]
        for stage, depth in enumerate(depths):
            for index in range(depth):
                number, name = stage * most + index, f"{stage + 1}_{index + 1}"
                kernels[number] = trial.suggest_categorical(f"kernel_{name}", self.supernet.kernel_sizes)
                expands[number] = trial.suggest_categorical(f"expand_{name}", self.supernet.expand_ratios)
        return {"side": side, "active_depths": depths, "active_kernels": kernels, "active_expands": expands}

    def config(self, fields: dict[str, Any]) -> SizedSubnet:
        """Raises ValueError where there is no such sub-network."""
        shape = {name: value for name, value in fields.items() if name != "side"}
        return SizedSubnet(self.supernet.replace(function="subnet", **shape), fields["side"])
