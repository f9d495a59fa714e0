"""What all methods of the task pre-training share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from ommatid.data import Loader, Samples, eval_transform, train_transform
from ommatid.data.unlabelled import make_noise_loader
from ommatid.methods.pretraining.guessing import noise_numbers
from ommatid.models.config import require
from ommatid.runs.trained import PRETRAINING
from ommatid.training.methods.method import Method

if TYPE_CHECKING:
    from ommatid.training.settings import Settings


class Unlabelled(Method):
    """Base of methods that learn from pictures alone: the model to train is a `Learner`, its outcome the backbone."""

    def check(self, settings: Settings) -> None:
        require(settings.task == PRETRAINING, "method", settings.method, f"for pretraining, not {settings.task}")

    def outcome(self, model: nn.Module) -> nn.Module:
        return model.get_submodule("network")

    def loader(self, samples: Samples, settings: Settings, *, train: bool, **options: Any) -> Loader:
        """Batches of images and of what is drawn beside them; those of validation are always the same.

        options: as of `epoch_loader`.
        """
        assert settings.size is not None
        augmented = train_transform(settings.recipe.augmentation, settings.size)
        transform = augmented if train else eval_transform(settings.size)
        return make_noise_loader(samples, transform, noise_numbers(settings.size), fixed=not train, **options)
