"""Pre-training of convolutional networks by the pixels of patches that they do not see: "SparK" (arXiv 2301.03580)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from ommatid.models.backbones.convnext import ConvNeXt, ConvNeXtConfig
from ommatid.models.backbones.ibn_net import IBNNet, IBNNetConfig
from ommatid.models.config import PartConfig, require
from ommatid.models.registry import find
from ommatid.training.methods.unlabelled import Unlabelled

if TYPE_CHECKING:
    from ommatid.training.settings import Settings

STRIDE = 32
"""Of the last of its four maps."""


@dataclass(frozen=True)
class HiddenPatches(Unlabelled):
    """The backbone's maps stay empty where patches are hidden; a small network guesses those from its maps.

    mask_ratio: share of the patches of 32 pixels a side that are hidden. width: of the guessing network at its coarsest
    map; a multiple of 32.
    """

    mask_ratio: float = 0.6
    width: int = 768

    def check(self, settings: Settings) -> None:
        super().check(settings)
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "between 0 and 1, both excluded")
        require(self.width > 0 and self.width % STRIDE == 0, "width", self.width, f"a multiple of {STRIDE}")
        check_network(settings.model, find(settings.model)[1].replace(**settings.set))

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        from ommatid.methods.pretraining.guessing import SparKGuesser
        from ommatid.methods.pretraining.learner import ready

        assert isinstance(model, ConvNeXt | IBNNet)
        assert settings.size is not None
        check_network(settings.model, model.config)
        guesser = SparKGuesser(
            model,
            mask_ratio=self.mask_ratio,
            width=self.width,
            norm="ln" if isinstance(model, ConvNeXt) else "bn",
        )
        return ready(guesser, settings.size)


def check_network(name: str, config: PartConfig) -> None:
    """Raises ValueError for a backbone whose maps could not stay empty, or that has not four of them."""
    if isinstance(config, ConvNeXtConfig):
        fits = config.variant == "hierarchical" and len(config.dims) == 4
    else:
        fits = isinstance(config, IBNNetConfig) and not any(config.ibn) and len(config.dims) == 4
    allowed = "a convnext, or an ibn_net with ibn=[null,null,null,null], of four resolutions, with the method spark"
    require(fits, "model", name, allowed)
