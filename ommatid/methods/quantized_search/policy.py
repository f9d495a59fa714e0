"""Post-training static quantisation of chosen layers, simulated: values stay floats, on the grid of integers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ommatid.models.config import require

Mode = Literal["symmetric", "asymmetric"]


@dataclass(frozen=True)
class LayerPolicy:
    """bits: 8 (weights int8, activations uint8), or 32 for a layer that is left alone. mode: of the weights' range."""

    bits: int = 32
    mode: Mode = "symmetric"

    def __post_init__(self) -> None:
        require(self.bits in (8, 32), "bits", self.bits, "8 or 32")
        require(self.mode in ("symmetric", "asymmetric"), "mode", self.mode, "symmetric or asymmetric")


Policy = Mapping[str, LayerPolicy]
"""By the name of the layer; those that are not named stay in 32 bits."""


def quantizable(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Layers with a choice of bits, in the order of modules."""
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


@torch.no_grad()
def fake_quantized(model: nn.Module, policy: Policy, calibration: Iterable[Tensor]) -> nn.Module:
    """A copy in evaluation mode that answers as the quantised model would. Fold batch norms before (`deploy`).

    Args:
        calibration: batches of images, whose extremes are the ranges of the activations.

    Raises:
        ValueError: the policy names a layer that there is not.
    """
    quantized = copy.deepcopy(model).eval()
    layers = quantizable(quantized)
    for name in policy:
        require(name in layers, "policy", name, f"layers of the model, as {', '.join(list(layers)[:3])}")
    chosen = {name: layers[name] for name, choice in policy.items() if choice.bits == 8}
    ranges = _ranges(quantized, chosen, calibration)
    for name, layer in chosen.items():
        layer.weight.copy_(quantized_weights(layer.weight, policy[name].mode))
        if name in ranges:
            layer.register_forward_pre_hook(_Rounded(*ranges[name]))
    return quantized


def quantized_weights(weight: Tensor, mode: Mode) -> Tensor:
    """(C_out, ...) rounded to int8 per output channel."""
    rows = weight.flatten(1)
    if mode == "symmetric":
        scale, zero = rows.abs().amax(1) / 127, rows.new_zeros(len(rows))
    else:
        scale, zero = _affine(rows.amin(1), rows.amax(1))
        zero = zero - 128
    return rounded(rows, scale[:, None], zero[:, None], -128, 127).view_as(weight)


def rounded(values: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """To the nearest of the integers' values, half to even; `scale` 0 where all values are 0."""
    steps = torch.where(scale > 0, scale, torch.ones_like(scale))
    return ((values / steps).round_().add_(zero).clamp_(low, high) - zero) * steps


def model_bytes(model: nn.Module, policy: Policy) -> float:
    """Of parameters: weights of quantised layers by their bits, everything else in 32; scales are left out."""
    weights = {id(layer.weight): policy[name].bits for name, layer in quantizable(model).items() if name in policy}
    return sum(value.numel() * weights.get(id(value), 32) / 8 for value in model.parameters())


def _affine(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point of 256 steps from low to high; 0, which padding has, is always among them."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / 255
    return scale, torch.where(scale > 0, (-low / scale).round(), torch.zeros_like(scale))


class _Rounded:
    """Rounds what comes into a layer to uint8, one range for the whole tensor."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.scale, self.zero = _affine(low, high)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (rounded(inputs[0], self.scale, self.zero, 0, 255), *inputs[1:])


def _ranges(
    model: nn.Module, layers: Mapping[str, nn.Module], calibration: Iterable[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Smallest and largest value that came into each layer."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            low, high = torch.aminmax(inputs[0])
            if name in seen:
                low, high = torch.minimum(low, seen[name][0]), torch.maximum(high, seen[name][1])
            seen[name] = low, high

        return layers[name].register_forward_pre_hook(see)

    hooks = [watch(name) for name in layers]
    for images in calibration:
        model(images)
    for hook in hooks:
        hook.remove()
    return seen
