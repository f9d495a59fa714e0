"""Learners of what is hidden: a perfect guess looks like the image, and what the guess does not need stays as it is."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.pretraining.guessing import (
    Guesser,
    SimMIMGuesser,
    SparKGuesser,
    noise_numbers,
    suited_patch,
)
from ommatid.methods.pretraining.learner import ready
from ommatid.methods.pretraining.pixels import locally_normed, normed_patches, patchify

SWIN = {"image_size": 64, "dims": (8, 16), "depths": (1, 1), "heads": (1, 2), "window_size": 4, "num_classes": 0}
CONVNEXT = {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_classes": 0}


def simmim(norm_target: int = 0) -> Guesser:
    torch.manual_seed(0)
    return SimMIMGuesser(ommatid.create_model("swin", **SWIN), mask_ratio=0.5, mask_patch=16, norm_target=norm_target)


def spark() -> Guesser:
    torch.manual_seed(0)
    return SparKGuesser(ommatid.create_model("convnext", **CONVNEXT), mask_ratio=0.6, width=32, norm="ln")


def test_a_perfect_guess_is_the_image() -> None:
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(simmim().picture(image, image), image)
    torch.testing.assert_close(simmim(7).picture(locally_normed(image, 7), image), image)
    patches = normed_patches(patchify(image, 32)).unflatten(1, (2, 2)).unflatten(3, (32, 32, 3))
    normed = patches.permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 64, 64)
    torch.testing.assert_close(spark().picture(normed, image), image)


@pytest.mark.parametrize("make", [simmim, spark])
def test_errors_of_single_images_have_the_loss_as_their_mean(make: type[Guesser]) -> None:
    guesser = make().eval()
    image, noise = torch.rand(3, 3, 64, 64), torch.rand(3, noise_numbers(64))
    errors = guesser.errors(image, noise)
    assert errors.found.shape == errors.empty.shape == (3,)
    torch.testing.assert_close(errors.found.mean(), guesser(image, noise))
    assert 0 < guesser.hidden(image, noise).float().mean() < 1


@pytest.mark.parametrize(("make", "idle"), [(simmim, set()), (spark, {"network.norm.weight", "network.norm.bias"})])
def test_what_is_not_needed_is_not_trained(make: type[Guesser], idle: set[str]) -> None:
    guesser = ready(make(), 64)
    assert {name for name, parameter in guesser.named_parameters() if not parameter.requires_grad} == idle
    assert all(parameter.grad is None for parameter in guesser.parameters())


def test_squares_fit_four_times_into_a_side() -> None:
    assert [suited_patch(size, 4) for size in (192, 224, 64, 32, 48)] == [32, 32, 16, 8, 8]
    assert suited_patch(224, 16) == 32
    assert suited_patch(336, 14) == 14
