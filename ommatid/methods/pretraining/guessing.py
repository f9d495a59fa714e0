"""Learners that guess what is hidden: images and random numbers in, a loss out."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ommatid.methods.pretraining.learner import Errors, Learner
from ommatid.methods.pretraining.masked_encoder import Maskable
from ommatid.methods.pretraining.pixels import with_patch_statistics
from ommatid.methods.pretraining.simmim import SimMIM, square_mask
from ommatid.methods.pretraining.spark import PATCH, DensifyNorm, Network, SparK, active_patches, kept, patch_loss
from ommatid.models.backbones.eva import EVA
from ommatid.models.backbones.vit import ViT
from ommatid.models.config import require

FINEST = 4
"""Side in pixels of the smallest squares that are hidden; the noise of an image has a number for each of them."""


def noise_numbers(size: int) -> int:
    """How many random numbers come with an image of `size` pixels a side; a learner takes as many as it needs."""
    return max(size // FINEST, 1) ** 2


class Guesser(Learner):
    """Base of those that guess: image (B, 3, H, W), noise (B, N) from 0 to 1 -> loss ()."""

    def example(self, size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(2, 3, size, size), torch.rand(2, noise_numbers(size))

    def hidden(self, image: Tensor, noise: Tensor) -> Tensor:
        """Which cells of a grid are hidden: booleans (B, h, w)."""
        raise NotImplementedError

    def guess(self, image: Tensor, hidden: Tensor) -> Tensor:
        """What the image should look like, in the terms of the loss: (B, 3, H, W)."""
        raise NotImplementedError

    def error(self, guess: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        """The loss ()."""
        raise NotImplementedError

    def picture(self, guess: Tensor, image: Tensor) -> Tensor:
        """A guess as an image, both (B, 3, H, W)."""
        raise NotImplementedError

    def forward(self, images: Tensor, drawn: Tensor) -> Tensor:
        hidden = self.hidden(images, drawn)
        return self.error(self.guess(images, hidden), images, hidden)

    def errors(self, images: Tensor, drawn: Tensor) -> Errors:
        hidden = self.hidden(images, drawn)
        guess = self.guess(images, hidden)
        single = [slice(index, index + 1) for index in range(len(images))]

        def each(answer: Tensor) -> Tensor:
            return torch.stack([self.error(answer[one], images[one], hidden[one]).float() for one in single])

        return Errors(each(guess), each(torch.zeros_like(guess)))


class SimMIMGuesser(Guesser):
    """SimMIM on a backbone.

    Args:
        network: the backbone.
        mask_ratio: share of the squares that are hidden.
        mask_patch: side of the squares in pixels.
        norm_target: as of `SimMIM`.
    """

    def __init__(self, network: Maskable, *, mask_ratio: float, mask_patch: int, norm_target: int) -> None:
        super().__init__()
        stride = network.strides[0]
        fits = mask_patch % stride == 0 and mask_patch >= FINEST
        require(fits, "mask_patch", mask_patch, f"a multiple of {stride}, the backbone's patches, from {FINEST} on")
        self.network = network
        plain = isinstance(network, EVA | ViT)
        self.learner = SimMIM(network, norm_target=norm_target, cut=0.02 if plain else 2.0)
        self.mask_ratio, self.mask_patch = mask_ratio, mask_patch

    def check_size(self, size: int) -> None:
        least = math.lcm(self.mask_patch, self.network.strides[-1])
        squares = (size // self.mask_patch) ** 2
        some = size % least == 0 and 0 < math.ceil(squares * self.mask_ratio) < squares
        require(some, "size", size, f"a multiple of {least} of which squares of {self.mask_patch} can be left")

    def hidden(self, image: Tensor, noise: Tensor) -> Tensor:
        count = (image.shape[-1] // self.mask_patch) ** 2
        return square_mask(noise[:, :count], self.mask_ratio, self.mask_patch // self.network.strides[0])

    def guess(self, image: Tensor, hidden: Tensor) -> Tensor:
        return self.learner(image, hidden)

    def error(self, guess: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        return self.learner.loss_of(guess, image, hidden)

    def picture(self, guess: Tensor, image: Tensor) -> Tensor:
        return self.learner.like(guess, image)


class SparKGuesser(Guesser):
    """SparK on a convolutional backbone.

    Args:
        network: the backbone.
        mask_ratio: share of the patches of 32 pixels a side that are hidden.
        width, norm: as of `SparK`.
    """

    def __init__(self, network: Network, *, mask_ratio: float, width: int, norm: DensifyNorm) -> None:
        super().__init__()
        self.network = network
        self.learner = SparK(network, width=width, norm=norm)
        self.mask_ratio = mask_ratio

    def check_size(self, size: int) -> None:
        patches = (size // PATCH) ** 2
        some = size % PATCH == 0 and 0 < kept(patches, self.mask_ratio) < patches
        require(some, "size", size, f"a multiple of {PATCH} of which patches of {PATCH} can be left")

    def hidden(self, image: Tensor, noise: Tensor) -> Tensor:
        side = image.shape[-1] // PATCH
        return ~active_patches(noise[:, : side**2], self.mask_ratio).unflatten(1, (side, side))

    def guess(self, image: Tensor, hidden: Tensor) -> Tensor:
        return self.learner(image, ~hidden)

    def error(self, guess: Tensor, image: Tensor, hidden: Tensor) -> Tensor:
        return patch_loss(guess, image, ~hidden)

    def picture(self, guess: Tensor, image: Tensor) -> Tensor:
        return with_patch_statistics(guess, image, PATCH)


def suited_patch(size: int, stride: int) -> int:
    """Side of the squares to hide in images of `size` pixels: 32, or less where fewer than four would fit a side."""
    sides = (side for side in (32, 16, 8, 4) if side % stride == 0 and size % side == 0 and size >= 4 * side)
    return next(sides, stride * math.ceil(FINEST / stride))
