"""The contract of every backbone: one image in; feature maps, an embedding or logits out."""

from __future__ import annotations

from torch import Tensor, nn

from ommatid.models.config import Config
from ommatid.models.model import Model
from ommatid.models.sizes import ImageSizes
from ommatid.nn.moe.routing import balance_of, recorded_routings


class Backbone(Model):
    """Base of all image backbones. A family sets `channels` and `strides`, and defines `maps` and `embed`.

    Attributes:
        channels: C_i of each stage, fine to coarse.
        strides: image pixels per feature-map cell of each stage.
        image_sizes: what images are padded to where the family does not take any; for dense prediction.
        batch_dependent: whether, by the published definition, an image's answer depends on the others in its batch.
        balance_weight: of the balance losses of layers of experts beside the task's loss.
    """

    config: Config
    head: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    batch_dependent: bool = False
    image_sizes: ImageSizes = ImageSizes()
    balance_weight: float = 0.01

    @property
    def embed_dim(self) -> int:
        """Length D of the embedding."""
        return self.channels[-1]

    @property
    def body(self) -> list[nn.Module]:
        """Its stages, or its blocks where all have one resolution, from the stem to the head; learning rates may fall
        from each to the one before it. Empty where they are not known.
        """
        trunk = getattr(self, "trunk", self)
        return list(getattr(trunk, "stages", None) or getattr(trunk, "blocks", None) or [])

    def maps(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> one channels-last map (B, H_i, W_i, C_i) per stage, fine to coarse."""
        raise NotImplementedError

    def embed(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, D): the vector that the classifier reads."""
        raise NotImplementedError

    def features(self, image: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> one (B, C_i, H_i, W_i) per stage, fine to coarse; views of channels-last maps."""
        return [features.permute(0, 3, 1, 2) for features in self.maps(image)]

    def tokens(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, N, C) after the last block, before the final norm; plain models only.

        Raises:
            ValueError: the model has several resolutions.
        """
        if len(self.channels) != 1:
            count = len(self.channels)
            raise ValueError(f"{type(self).__name__} has {count} resolutions, no single token sequence: use features()")
        return self.maps(image)[0].flatten(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, num_classes), or the embedding where num_classes is 0."""
        return self.head(self.embed(image))

    def with_auxiliary_loss(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and what the architecture adds to any training loss, of shape (); mostly 0.

        Where there are layers of experts, their balance losses, by `balance_weight`.
        """
        with recorded_routings(self) as routings:
            logits = self(image)
        return logits, self.balance_weight * balance_of(routings) if routings else logits.new_zeros(())


def classifier(dim: int, num_classes: int) -> nn.Module:
    """(B, dim) -> (B, num_classes), or the identity where num_classes is 0."""
    return nn.Linear(dim, num_classes) if num_classes else nn.Identity()


def channels_last(image: Tensor) -> Tensor:
    """(B, C, H, W) -> contiguous (B, H, W, C): the one layout change, made on the image itself."""
    return image.permute(0, 2, 3, 1).contiguous()


def doubling_strides(first: int, stages: int) -> tuple[int, ...]:
    """Strides of a pyramid that halves its resolution between stages."""
    return tuple(first * 2**stage for stage in range(stages))
