"""What a way to train may change. The plain one, here, changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:  # Lightning takes seconds to import, and a mistyped setting is answered before
    from lightning.pytorch import Callback

    from ommatid.tasks.training import Training
    from ommatid.training.settings import Settings


class Method:
    """Base of all methods. Each is a frozen dataclass of its settings, and overrides what it changes."""

    def check(self, settings: Settings) -> None:
        """Raises ValueError for settings that this method cannot be used with."""

    def begin(self, model: nn.Module, settings: Settings, *, pretrained: bool) -> nn.Module:
        """The model to train, of the one that is asked for. Raises ValueError for a model that cannot be trained so."""
        return model

    def training(self, training: Training, settings: Settings, steps: int) -> Training:
        """The training itself, of the task's, in `steps` steps."""
        return training

    def callbacks(self, steps: int) -> list[Callback]:
        """What happens beside its `steps` steps."""
        return []

    def outcome(self, model: nn.Module) -> nn.Module:
        """The model to save, of the one that was trained. All processes call it."""
        return model
