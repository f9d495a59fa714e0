"""Sub-networks of a once-for-all super-network in numbers: what can be chosen, and what is (arXiv 1908.09791)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ommatid.models.config import Config, require, require_positive
from ommatid.nn.elastic import mobile_width

WIDTHS = (16, 16, 24, 40, 80, 112, 160)
LAST_WIDTHS = (960, 1280)
STRIDES = (2, 2, 2, 1, 2)


class Setting(NamedTuple):
    """A sub-network: kernel and expansion of every block, skipped ones too, and how many blocks each stage takes."""

    kernels: tuple[int, ...]
    expands: tuple[float, ...]
    depths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class OnceForAllConfig(Config):
    """`function` "supernet" is the whole network, of which `active_*` say which part answers (the largest where empty);
    "subnet" is one part of it, with `active_*` for its only shape. "layer" is one elastic block of `in_channels` and
    `out_channels`. `sort_stage` is how many expansions were trained before the channels are sorted.
    """

    function: Literal["supernet", "subnet", "layer"] = "supernet"
    width_mult: float = 1.0
    kernel_sizes: tuple[int, ...] = (3, 5, 7)
    expand_ratios: tuple[int | float, ...] = (3, 4, 6)
    depths: tuple[int, ...] = (2, 3, 4)
    active_kernels: tuple[int, ...] = ()
    active_expands: tuple[int | float, ...] = ()
    active_depths: tuple[int, ...] = ()
    sort_stage: int = 0
    out_channels: int = 24
    stride: int = 1
    act: Literal["relu", "h_swish"] = "relu"
    se: bool = False

    def check(self) -> None:
        require_positive(width_mult=self.width_mult, expand_ratios=self.expand_ratios, depths=self.depths)
        odd = bool(self.kernel_sizes) and all(size > 0 and size % 2 for size in self.kernel_sizes)
        require(odd, "kernel_sizes", self.kernel_sizes, "odd integers, at least one")
        stages = range(len(self.expand_ratios))
        require(self.sort_stage in stages, "sort_stage", self.sort_stage, f"from 0 to {len(stages) - 1}")
        if self.function != "layer":
            self.check_setting(self.setting)

    def check_setting(self, setting: Setting) -> None:
        """Raises ValueError for one that there is not."""
        blocks = max(self.depths) * len(STRIDES)
        for name, values, known, count in (
            ("active_kernels", setting.kernels, self.kernel_sizes, blocks),
            ("active_expands", setting.expands, self.expand_ratios, blocks),
            ("active_depths", setting.depths, self.depths, len(STRIDES)),
        ):
            possible = len(values) == count and all(value in known for value in values)
            require(possible, name, values, f"{count} of {', '.join(map(str, known))}")

    @property
    def largest(self) -> Setting:
        blocks = max(self.depths) * len(STRIDES)
        return Setting(
            (max(self.kernel_sizes),) * blocks, (max(self.expand_ratios),) * blocks, (max(self.depths),) * len(STRIDES)
        )

    @property
    def setting(self) -> Setting:
        whole = self.largest
        return Setting(
            self.active_kernels or whole.kernels,
            self.active_expands or whole.expands,
            self.active_depths or whole.depths,
        )

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(mobile_width(width * self.width_mult) for width in WIDTHS)

    @property
    def last_widths(self) -> tuple[int, ...]:
        return tuple(mobile_width(width * self.width_mult) for width in LAST_WIDTHS)
