"""Spikes: neurons that fire when what flows in has charged them enough, and attention between their spikes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Firing(NamedTuple):
    """spikes: 1 where a neuron fires, else 0. membrane: the voltages after every step, 0 where it fired."""

    spikes: Tensor
    membrane: Tensor


def leaky_integrate_and_fire(
    current: Tensor,
    *,
    threshold: float = 1.0,
    tau: float = 2.0,
    alpha: float = 4.0,
    axis: int = 0,
    voltage: Tensor | None = None,
) -> Firing:
    """Leaky integrate-and-fire neurons with a hard reset, one for each element, over the steps along an axis.

    v_t = v_(t-1) + (x_t - v_(t-1)) / tau; a neuron with v_t >= threshold fires and starts from 0 again. Backward, a
    spike has the slope of sigmoid(alpha (v - threshold)), and the reset has none: "Surrogate Gradient Learning in
    Spiking Neural Networks" (arXiv 1901.09948).
    The reset makes it a true recurrence: one step after another.

    Args:
        current: x, of any shape.
        threshold: voltage from which on a neuron fires.
        tau: time constant in steps; 1 is no memory.
        alpha: steepness of the slope.
        axis: of the steps.
        voltage: v before the first step, without that axis; 0 where None.

    Returns:
        Both in the shape of the current.
    """
    first = current.select(axis, 0)
    voltage = torch.zeros_like(first) if voltage is None else voltage
    charged = []
    for incoming in current.unbind(axis):
        voltage = voltage + (incoming - voltage) / tau
        charged.append(voltage)
        voltage = voltage.masked_fill(voltage >= threshold, 0)
    charges = torch.stack(charged, axis)
    return Firing(spikes_of(charges - threshold, alpha), charges.masked_fill(charges >= threshold, 0))


def spikes_of(excess: Tensor, alpha: float) -> Tensor:
    """1 where the excess is 0 or more, else 0, with the gradient of sigmoid(alpha excess)."""
    slope = torch.sigmoid(alpha * excess)
    return (excess >= 0).to(excess.dtype) + (slope - slope.detach())


def spiking_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """scale q k^T v without a softmax: with spikes, every weight is a count.

    "Spikformer: When Spiking Neural Network Meets Transformer" (arXiv 2209.15425). Counts are whole numbers, so the
    order of the two products does not change the answer: the cheaper one is taken.
    Cost: 2 N d min(N, d) multiply-adds for each head.

    Args:
        query, key, value: (B, N, heads, d).
        scale: of the counts.

    Returns:
        (B, N, heads * d), heads concatenated in order.
    """
    if query.shape[1] > query.shape[3]:
        mixed = torch.einsum("bnhc,bhcd->bnhd", query, torch.einsum("bnhc,bnhd->bhcd", key, value))
    else:
        mixed = torch.einsum("bhnm,bmhd->bnhd", torch.einsum("bnhd,bmhd->bhnm", query, key), value)
    return (mixed * scale).flatten(2)
