"""Squeeze-and-excitation: the whole map decides how much each channel counts."""

from __future__ import annotations

import math

from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate computed from the map's mean: (B, H, W, C) -> (B, H, W, C).

    "Squeeze-and-Excitation Networks" (arXiv 1709.01507). Cost: 2 C hidden multiply-adds, whatever the map's size.

    Args:
        dim: C.
        hidden: width between the two linear layers (1x1 convolutions of a reference load into them).
        act: the activation between them.
        gate: the activation at the end.
        bias: of both linear layers.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        act: nn.Module | None = None,
        gate: nn.Module | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.act = act or nn.ReLU()
        self.fc2 = nn.Linear(hidden, dim, bias=bias)
        self.gate = gate or nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        squeezed = features.mean((1, 2), keepdim=True)
        return features * self.gate(self.fc2(self.act(self.fc1(squeezed))))


class EfficientChannelAttention(nn.Module):
    """Scales every channel by a gate computed from the means of its neighbours: (B, H, W, C) -> (B, H, W, C).

    ECA-Net (arXiv 1910.03151). The kernel, over the channels' order, grows with the logarithm of C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = int(abs(math.log2(dim) + 1) / 2)
        kernel_size = max(3, half if half % 2 else half + 1)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        gate = self.conv(features.mean((1, 2)).unsqueeze(1)).sigmoid()
        return features * gate.unsqueeze(1)


def rounded_width(width: float, multiple: int = 8, *, keep: float = 0.0) -> int:
    """The multiple nearest to `width` (halves round up), at least one: how mobile networks size their narrow layers.

    Args:
        width: in channels.
        multiple: of what.
        keep: share of the width below which rounding down must not fall; it then rounds up.
    """
    rounded = max(multiple, int(width + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < keep * width else rounded


def init_gate_fan_out_(layer: nn.Module) -> None:
    """For `model.apply`. Squeeze-and-excitation: weights from N(0, 2 / fan_out), biases 0, as 1x1 convolutions have."""
    if isinstance(layer, SqueezeExcite):
        for linear in (layer.fc1, layer.fc2):
            nn.init.normal_(linear.weight, std=(2 / linear.out_features) ** 0.5)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)


def init_gate_uniform_(layer: nn.Module) -> None:
    """For `model.apply`. Squeeze-and-excitation: weights and biases that PyTorch gives to new 1x1 convolutions."""
    if isinstance(layer, SqueezeExcite):
        layer.fc1.reset_parameters()
        layer.fc2.reset_parameters()
