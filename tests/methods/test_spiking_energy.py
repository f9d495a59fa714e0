"""Spiking neurons fire as their equation says, and their energy is what it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ommatid.methods.spiking_energy import E_MAC, spiking_energy
from ommatid.models import create_model
from ommatid.nn.spiking import firing_rates
from ommatid.ops.spiking import leaky_integrate_and_fire


def test_a_constant_current_fires_at_a_fixed_period() -> None:
    spikes, membrane = leaky_integrate_and_fire(torch.full((12, 1), 1.2))  # 0.6, 0.9, 1.05: every third step
    assert spikes.flatten().tolist() == [0, 0, 1] * 4
    assert (membrane[spikes == 1] == 0).all()
    assert not leaky_integrate_and_fire(torch.full((50, 1), 0.99)).spikes.any()


def test_currents_in_parts_are_the_same_sequence() -> None:
    current = 2 * torch.randn(3, 10)
    whole = leaky_integrate_and_fire(current, axis=1)
    first = leaky_integrate_and_fire(current[:, :4], axis=1)
    second = leaky_integrate_and_fire(current[:, 4:], axis=1, voltage=first.membrane[:, -1])
    assert torch.equal(torch.cat([first.spikes, second.spikes], 1), whole.spikes)


def test_always_firing_once_costs_what_the_network_without_spikes_does() -> None:
    always = spiking_energy(torch.ones(3), [10, 20, 30], [False, True, True], steps=1, e_ac=E_MAC)
    torch.testing.assert_close(always.total, always.ann_total)
    assert always.synaptic_operations.tolist() == [0, 20, 30]
    half = spiking_energy(torch.full((3,), 0.5), [10, 20, 30], [False, True, True], steps=1)
    torch.testing.assert_close(half.energy, torch.tensor([46.0, 9.0, 13.5]))


def test_layers_without_a_rate_are_refused() -> None:
    with pytest.raises(ValueError, match=r"macs = \(10, 20\).*allowed is one entry for each of the 3 layers in rates"):
        spiking_energy(torch.ones(3), [10, 20], [True, True, True], steps=4)


@pytest.mark.parametrize("variant", ["spikformer", "sdt"])
def test_every_neuron_of_a_network_is_metered(variant: str) -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = {"variant": variant, "dim": 16, "heads": 4, "depth": 2, "steps": 3, "threshold": 0.3}
    model = create_model("step_spiking", num_classes=5, **config)  # in training mode: norms that have seen nothing yet
    rates = firing_rates(model, [torch.rand(2, 3, 18, 13), torch.rand(1, 3, 18, 13)])
    assert len(rates.neurons) == {"spikformer": 5 + 2 * 5, "sdt": 4 + 2 * 5 + 1}[variant]
    assert 0 < rates.overall < 1


def test_nothing_to_meter_is_refused() -> None:
    with pytest.raises(ValueError, match="no spiking neuron was run"):
        firing_rates(torch.nn.Linear(2, 2), [torch.rand(1, 2)])
