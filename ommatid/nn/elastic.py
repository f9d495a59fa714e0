"""An inverted bottleneck from which smaller ones are cut: fewer channels inside, smaller kernels, the same weights.

"Once for All: Train One Network and Specialize it for Efficient Deployment" (arXiv 1908.09791).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.conv import ConvNorm
from ommatid.nn.mbconv import MBConv
from ommatid.nn.norm import BatchNorm2d
from ommatid.nn.squeeze_excite import SqueezeExcite, rounded_width


def mobile_width(width: float) -> int:
    """The nearest multiple of 8 that takes away a tenth at most."""
    return rounded_width(width, keep=0.9)


def gated(hidden: int) -> SqueezeExcite:
    """The gate of an inverted bottleneck with `hidden` channels inside."""
    return SqueezeExcite(hidden, mobile_width(hidden // 4), gate=nn.Hardsigmoid())


class ElasticMBConv(nn.Module):
    """An `MBConv` whose expansion and kernel can be chosen anew at every step: (B, H, W, C_in) -> (B, H / s, W / s, C).

    A smaller one takes the first channels of the largest, and of its kernels the middle, which goes through a learned
    matrix. Cost: that of the chosen `MBConv`.

    Args:
        in_dim: C_in. dim: C. stride: s.
        kernel_sizes, expand_ratios: what can be chosen; the largest are chosen at first.
        act: behind the first two convolutions.
        gate: whether there is squeeze-and-excitation.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        *,
        kernel_sizes: Sequence[int],
        expand_ratios: Sequence[float],
        stride: int,
        act: nn.Module,
        gate: bool,
    ) -> None:
        super().__init__()
        self.in_dim, self.dim, self.stride = in_dim, dim, stride
        self.kernel_sizes = sorted(kernel_sizes, reverse=True)
        self.kernel_size, self.expand_ratio = self.kernel_sizes[0], max(expand_ratios)
        hidden = self.hidden(self.expand_ratio)
        self.largest = MBConv(
            in_dim,
            dim,
            hidden,
            kernel_size=self.kernel_size,
            stride=stride,
            act=act,
            gate=gated(hidden) if gate else None,
        )
        self.transforms = nn.ParameterDict(
            {f"{large}to{small}": torch.eye(small**2) for large, small in pairwise(self.kernel_sizes)}
        )

    def hidden(self, expand_ratio: float) -> int:
        """Channels inside."""
        return mobile_width(round(self.in_dim * expand_ratio))

    def forward(self, features: Tensor) -> Tensor:
        hidden, whole = self.hidden(self.expand_ratio), self.largest
        features = _first_channels(whole.expand, features, whole.expand.conv.weight[:hidden])
        features = _first_channels(whole.conv, features, self.kernel(hidden), self.stride, groups=hidden)
        if isinstance(whole.gate, SqueezeExcite):
            features = _first_gated(whole.gate, features)
        return _first_channels(whole.reduce, features, whole.reduce.conv.weight[:, :hidden])

    def kernel(self, hidden: int) -> Tensor:
        """Depthwise filters of the chosen size: (hidden, 1, K, K)."""
        filters = self.largest.conv.conv.weight[:hidden]
        for step, (large, small) in self.active_transforms().items():
            start = (large - small) // 2
            middle = filters[:, :, start : start + small, start : start + small]
            filters = (middle.flatten(2) @ self.transforms[step].T).view_as(middle)
        return filters

    def active_transforms(self) -> dict[str, tuple[int, int]]:
        """The matrices between the largest kernel and the chosen one, by name, with the sizes they lead from and to."""
        chosen = [sizes for sizes in pairwise(self.kernel_sizes) if sizes[1] >= self.kernel_size]
        return {f"{large}to{small}": (large, small) for large, small in chosen}

    @torch.no_grad()
    def extract(self) -> MBConv:
        """The chosen part as a block of its own, which gives the same answers."""
        hidden, whole = self.hidden(self.expand_ratio), self.largest
        gate = gated(hidden) if isinstance(whole.gate, SqueezeExcite) else None
        chosen = MBConv(
            self.in_dim,
            self.dim,
            hidden,
            kernel_size=self.kernel_size,
            stride=self.stride,
            act=whole.expand.act,
            gate=gate,
        )
        source = whole.state_dict() | {"conv.conv.weight": self.kernel(hidden)}
        for name, value in chosen.state_dict().items():
            value.copy_(source[name][tuple(slice(side) for side in value.shape)])
        return chosen.train(self.training)

    @torch.no_grad()
    def sort_channels_(self, widths: Sequence[int]) -> None:
        """Puts the channels inside that matter most first; the largest network's answers stay.

        widths: those already trained, descending. Channels of a narrower one stay in front of all others.
        """
        whole = self.largest
        importance = whole.reduce.conv.weight.abs().sum((0, 2, 3))
        group = torch.zeros_like(importance, dtype=torch.long)
        for rank, width in enumerate(reversed(widths)):
            group[width:] = rank + 1
        order = torch.argsort(importance, descending=True, stable=True)
        order = order[torch.argsort(group[order], stable=True)]
        _permute_outputs_(whole.expand, order)
        _permute_outputs_(whole.conv, order)
        whole.reduce.conv.weight.copy_(whole.reduce.conv.weight[:, order])
        if isinstance(whole.gate, SqueezeExcite):
            _sort_gate_(whole.gate, order)


def _first_channels(layer: ConvNorm, features: Tensor, weight: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """What a layer makes with the first of its channels, whose filters are `weight`."""
    count, norm, bias = len(weight), layer.norm, layer.conv.bias
    bias = None if bias is None else bias[:count]
    padding = weight.shape[-1] // 2
    mixed = F.conv2d(features.permute(0, 3, 1, 2), weight, bias, stride, padding, groups=groups)
    if isinstance(norm, BatchNorm2d):  # of a deployed copy it is folded
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mixed = F.batch_norm(
            mixed,
            norm.running_mean[:count],
            norm.running_var[:count],
            norm.weight[:count],
            norm.bias[:count],
            training=norm.training,
            momentum=norm.momentum or 0.0,
            eps=norm.eps,
        )
    return layer.act(mixed.permute(0, 2, 3, 1))


def _first_gated(gate: SqueezeExcite, features: Tensor) -> Tensor:
    count = features.shape[-1]
    inner = mobile_width(count // 4)
    squeezed = features.mean((1, 2), keepdim=True)
    squeezed = gate.act(F.linear(squeezed, gate.fc1.weight[:inner, :count], gate.fc1.bias[:inner]))
    return features * gate.gate(F.linear(squeezed, gate.fc2.weight[:count, :inner], gate.fc2.bias[:count]))


def _permute_outputs_(layer: ConvNorm, order: Tensor) -> None:
    layer.conv.weight.copy_(layer.conv.weight[order])
    for values in layer.norm.state_dict().values():
        if values.dim():
            values.copy_(values[order])


def _sort_gate_(gate: SqueezeExcite, order: Tensor) -> None:
    """The gate of permuted channels, its own hidden units sorted by what they matter."""
    gate.fc1.weight.copy_(gate.fc1.weight[:, order])
    gate.fc2.weight.copy_(gate.fc2.weight[order])
    gate.fc2.bias.copy_(gate.fc2.bias[order])
    units = torch.argsort(gate.fc2.weight.abs().sum(0), descending=True)
    gate.fc2.weight.copy_(gate.fc2.weight[:, units])
    gate.fc1.weight.copy_(gate.fc1.weight[units])
    gate.fc1.bias.copy_(gate.fc1.bias[units])
