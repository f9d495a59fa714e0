"""What a sub-network of a once-for-all super-network is made of, so that its costs are known before it is cut out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ommatid.models.backbone import classifier
from ommatid.models.backbones.once_for_all import Ends, Subnet, plain_block
from ommatid.models.elements import Element, element, elements, whole
from ommatid.models.subnets import STRIDES, OnceForAllConfig


@dataclass(frozen=True)
class SizedSubnet:
    """A sub-network's config, and the side of its images in pixels."""

    config: OnceForAllConfig
    side: int


@whole.register
def _(subnet: SizedSubnet) -> tuple[nn.Module, tuple[int, int, int]]:
    return Subnet(subnet.config), (subnet.side, subnet.side, subnet.config.in_channels)


@elements.register
def _(subnet: SizedSubnet) -> Iterator[Element]:
    config, side = subnet.config, subnet.side
    last = config.widths[-1]
    yield element(["stem", config.widths[:2]], (side, side, config.in_channels), partial(Lead, config))
    side = _halved(side)
    for stage, depth in enumerate(config.setting.depths):
        for index in range(depth):
            number, stride = stage * max(config.depths) + index, 1 if index else STRIDES[stage]
            chosen = [config.setting.kernels[number], config.setting.expands[number]]
            coming = config.widths[stage + (2 if index else 1)]
            known = ["block", stage, bool(index), *chosen, config.widths[stage + 2]]
            yield element(known, (side, side, coming), partial(plain_block, config, stage, index))
            side = _halved(side) if stride == 2 else side
    reading = ["reading", config.last_widths, config.num_classes]
    yield element(reading, (side, side, last), partial(Reading, config))


class Lead(nn.Module):
    """In front of the stages: (B, H, W, 3) -> (B, H / 2, W / 2, C)."""

    def __init__(self, config: OnceForAllConfig) -> None:
        super().__init__()
        ends = Ends(config)
        self.stem, self.first = ends.stem, ends.first

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.stem(x))


class Reading(nn.Module):
    """Behind the stages: (B, H, W, C) -> (B, classes)."""

    def __init__(self, config: OnceForAllConfig) -> None:
        super().__init__()
        self.ends = Ends(config)
        del self.ends.stem, self.ends.first
        self.head = classifier(config.last_widths[1], config.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.ends.embed(x))


def _halved(side: int) -> int:
    return -(-side // 2)
