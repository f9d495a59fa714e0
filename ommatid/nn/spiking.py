"""Layers of spiking neurons, and how often they fire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ommatid.nn.streaming import Step
from ommatid.ops.spiking import Firing, leaky_integrate_and_fire


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons, real currents in and spikes of 0 and 1 out: the shape stays.

    See `leaky_integrate_and_fire`; `axis` is that of the steps. Every call starts from voltage 0.
    """

    def __init__(self, threshold: float = 1.0, *, axis: int = 0, tau: float = 2.0, alpha: float = 4.0) -> None:
        super().__init__()
        self.threshold, self.axis, self.tau, self.alpha = threshold, axis, tau, alpha

    def forward(self, current: Tensor) -> Tensor:
        return self._fire(current, None).spikes

    def step(self) -> Step:
        """The same for currents that come in parts, one after another along the axis; it remembers the voltage."""
        voltage: Tensor | None = None

        def fire(current: Tensor) -> Tensor:
            nonlocal voltage
            firing = self._fire(current, voltage)
            voltage = firing.membrane.select(self.axis, -1)
            return firing.spikes

        return fire

    def _fire(self, current: Tensor, voltage: Tensor | None) -> Firing:
        return leaky_integrate_and_fire(
            current, threshold=self.threshold, tau=self.tau, alpha=self.alpha, axis=self.axis, voltage=voltage
        )

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, axis={self.axis}, tau={self.tau}"


@dataclass(frozen=True)
class FiringRates:
    """neurons: the share of elements and steps that are spikes, of each `LIF` by name. overall: of all together."""

    neurons: dict[str, float]
    overall: float


@torch.no_grad()
def firing_rates(model: nn.Module, batches: Iterable[Tensor]) -> FiringRates:
    """How often each layer of neurons fires on these inputs.

    Raises:
        ValueError: no neuron fired or kept still: the model has none, or there were no inputs.
    """
    spikes: dict[str, float] = {}
    slots: dict[str, int] = {}

    def watched(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def count(_module: nn.Module, _inputs: tuple[Tensor, ...], fired: Tensor) -> None:
            spikes[name] = spikes.get(name, 0.0) + fired.sum().item()
            slots[name] = slots.get(name, 0) + fired.numel()

        return count

    hooks = [part.register_forward_hook(watched(name)) for name, part in model.named_modules() if isinstance(part, LIF)]
    try:
        for batch in batches:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if not slots:
        raise ValueError("no spiking neuron was run: allowed is a model with LIF layers, and at least one batch")
    rates = {name: spikes[name] / slots[name] for name in slots}
    return FiringRates(rates, sum(spikes.values()) / sum(slots.values()))
