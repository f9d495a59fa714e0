"""Pre-training by the pixels of hidden squares: "SimMIM" (arXiv 2111.09886)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from torch import nn

from ommatid.methods.pretraining.masked_encoder import Maskable
from ommatid.models.config import require
from ommatid.models.registry import find
from ommatid.training.methods.unlabelled import Unlabelled

if TYPE_CHECKING:
    from ommatid.training.settings import Settings


@dataclass(frozen=True)
class HiddenSquares(Unlabelled):
    """The backbone sees a learned token in hidden squares; a linear layer on it says their pixels.

    mask_ratio: share of the squares that are hidden. mask_patch: their side in pixels; 0: 32, or less for small images.
    norm_target: side of the window that pixels to be guessed are normed in; 0 for pixels as they are.
    """

    mask_ratio: float = 0.6
    mask_patch: int = 0
    norm_target: int = 0

    def check(self, settings: Settings) -> None:
        super().check(settings)
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "between 0 and 1, both excluded")
        require(self.mask_patch >= 0, "mask_patch", self.mask_patch, "a side in pixels, or 0 for the usual one")
        odd = self.norm_target == 0 or (self.norm_target > 1 and self.norm_target % 2 == 1)
        require(odd, "norm_target", self.norm_target, "an odd number above 1, or 0 for none")
        family, config = find(settings.model)
        allowed = "a swin, swin_v2, eva or vit with the method simmim"
        require(issubclass(family.class_of(config), get_args(Maskable)), "model", settings.model, allowed)

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        from ommatid.methods.pretraining.guessing import SimMIMGuesser, suited_patch
        from ommatid.methods.pretraining.learner import ready

        assert isinstance(model, Maskable)
        assert settings.size is not None
        side = self.mask_patch or suited_patch(settings.size, model.strides[0])
        guesser = SimMIMGuesser(model, mask_ratio=self.mask_ratio, mask_patch=side, norm_target=self.norm_target)
        return ready(guesser, settings.size)
