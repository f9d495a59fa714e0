"""What spikes cost: the usual estimate of a spiking network's energy from how often its neurons fire.

As in Spikformer (arXiv 2209.15425) and the Spike-driven Transformer (arXiv 2307.01694): an addition for every spike
that meets a weight, at 45 nm CMOS. STEP (arXiv 2505.11151) argues that it flatters spiking networks: bit widths and
the traffic of weights are not in it. `ommatid.nn.spiking.firing_rates` measures the rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ommatid.models.backbones.step_spiking import StepSpikingConfig
from ommatid.models.config import require, require_positive
from ommatid.models.procedure import Procedure
from ommatid.models.registry import register_part
from ommatid.ops.spiking import leaky_integrate_and_fire

E_MAC = 4.6
E_AC = 0.9
"""Picojoules of a multiply-add and of an addition."""


class SpikingEnergy(NamedTuple):
    """synaptic_operations (..., L): additions, 0 for layers that read no spikes. energy (..., L), total (...), in pJ.

    ann_total (): what the same layers cost in a network without spikes, run once.
    """

    synaptic_operations: Tensor
    energy: Tensor
    total: Tensor
    ann_total: Tensor


def spiking_energy(
    rates: Tensor,
    macs: Sequence[int],
    spiking_input: Sequence[bool],
    *,
    steps: int,
    e_mac: float = E_MAC,
    e_ac: float = E_AC,
) -> SpikingEnergy:
    """The estimate for each layer and for all.

    Args:
        rates: (..., L) from 0 to 1, how often the neurons fire that each layer reads; of others it means nothing.
        macs: multiply-adds of each layer in one step; of attention, those of both products.
        spiking_input: whether each layer reads spikes. One that reads real numbers, as the first does, is run once.
        steps: T.
        e_mac, e_ac: energy of a multiply-add and of an addition, in pJ.

    Raises:
        ValueError: the three do not have as many layers, or there are no steps.
    """
    layers = rates.shape[-1]
    for name, values in (("macs", macs), ("spiking_input", spiking_input)):
        require(len(values) == layers, name, tuple(values), f"one entry for each of the {layers} layers in rates")
    require_positive(steps=steps)
    work, spiking = rates.new_tensor(macs), torch.tensor(spiking_input, device=rates.device)
    operations = torch.where(spiking, rates * steps * work, 0)
    energy = torch.where(spiking, e_ac * operations, e_mac * work)
    return SpikingEnergy(operations, energy, energy.sum(-1), e_mac * work.sum())


@register_part("step_spiking", "energy")
class Energy(Procedure):
    """raw_rates (..., L) from -1 to 1, for rates from 0 to 1 -> the estimate."""

    config: StepSpikingConfig

    def forward(self, raw_rates: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        estimate = spiking_energy(
            (raw_rates + 1) / 2,
            config.macs,
            config.spiking_input,
            steps=config.steps,
            e_mac=config.e_mac,
            e_ac=config.e_ac,
        )
        return estimate._asdict() | {"ann_total": estimate.ann_total.view(1)}


@register_part("step_spiking", "lif")
class Neurons(Procedure):
    """current (T, ...) -> spikes and membrane, both (T, ...)."""

    config: StepSpikingConfig

    def forward(self, current: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        config = self.config
        firing = leaky_integrate_and_fire(
            config.gain * current, threshold=config.threshold, tau=config.tau, alpha=config.alpha
        )
        return firing._asdict()
