"""SimMIM guesses what is hidden from what is not, and from nothing else."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.pretraining.simmim import SimMIM, square_mask

SWIN = {"image_size": 32, "dims": (8, 16), "depths": (2, 2), "heads": (1, 2), "window_size": 2, "num_classes": 0}


@pytest.fixture
def learner() -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(ommatid.create_model("swin", **SWIN)).eval()


def test_hidden_pixels_are_guessed_without_being_seen(learner: SimMIM) -> None:
    image, hidden = torch.rand(2, 3, 32, 32), square_mask(torch.rand(2, 4), 0.5, 4)
    assert hidden.float().mean() == 0.5
    pixels = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
    assert torch.equal(learner(image, hidden), learner(image.masked_fill(pixels, 7.0), hidden))
    assert not torch.equal(learner(image, hidden), learner(image.masked_fill(~pixels, 7.0), hidden))


def test_nothing_hidden_costs_nothing(learner: SimMIM) -> None:
    image, hidden = torch.rand(2, 3, 32, 32), square_mask(torch.rand(2, 4), 0.0, 4)
    guess = learner(image, hidden)
    assert learner.loss(image, hidden) == 0
    with torch.no_grad():
        learner.encoder.token.add_(1)
    assert torch.equal(learner(image, hidden), guess)


def test_the_backbone_is_trained_in_place(learner: SimMIM) -> None:
    image, hidden = torch.rand(2, 3, 32, 32), square_mask(torch.rand(2, 4), 0.5, 4)
    learner.loss(image, hidden).backward()
    assert all(parameter.grad is not None for parameter in learner.encoder.network.parameters())
    assert learner.encoder.network(image).shape == (2, 16)


def test_masks_are_square() -> None:
    with pytest.raises(ValueError, match="a square number"):
        square_mask(torch.rand(1, 8), 0.5, 2)
