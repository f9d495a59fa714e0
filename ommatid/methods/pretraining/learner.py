"""What learns from images alone, all alike from outside: a batch in, a loss out, a backbone trained in place."""

from __future__ import annotations

import copy
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from ommatid.models.backbone import Backbone


class Errors(NamedTuple):
    """Of each image (B,): how far off the answer is, and how far off an empty one would be."""

    found: Tensor
    empty: Tensor


class Learner(nn.Module):
    """Base: images and what was drawn at random beside them, a row for each -> loss ().

    Attributes:
        network: the backbone that is trained.
        no_decay: endings of the names of parameters that weight decay spares.
    """

    network: Backbone

    @property
    def no_decay(self) -> tuple[str, ...]:
        return (*getattr(self.network, "no_decay", ()), "token")

    def check_size(self, size: int) -> None:
        """Raises ValueError for images of `size` pixels a side, of which nothing can be learned."""
        raise NotImplementedError

    def example(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch of two images of random numbers."""
        raise NotImplementedError

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        raise NotImplementedError

    def errors(self, images: Tensor, drawn: Tensor) -> Errors:
        """The loss of each image by itself."""
        raise NotImplementedError


AnyLearner = TypeVar("AnyLearner", bound=Learner)


def ready(learner: AnyLearner, size: int) -> AnyLearner:
    """The same, without gradients for what the loss does not need, as a norm behind the last map.

    Raises:
        ValueError: nothing can be learned of images of `size` pixels a side.
    """
    learner.check_size(size)
    tried = copy.deepcopy(learner).train()
    tried(*tried.example(size)).backward()
    for used, parameter in zip(tried.parameters(), learner.parameters(), strict=True):
        parameter.requires_grad_(used.grad is not None)
    return learner
