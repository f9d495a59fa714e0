"""Two views of an image lie where their boxes say."""

from __future__ import annotations

import torch

from ommatid.methods.pretraining.views import random_views


def test_boxes_lie_in_the_image_and_say_what_is_mirrored() -> None:
    image = torch.randint(256, (3, 50, 80), dtype=torch.uint8)
    for flip in (0.0, 1.0):
        views, boxes = random_views(image, 32, flip=flip)
        assert views.shape == (2, 3, 32, 32)
        assert ((boxes >= 0) & (boxes <= 1)).all()
        assert ((boxes[:, 2] < boxes[:, 0]) == bool(flip)).all()


def test_what_is_random_follows_from_the_seed() -> None:
    image = torch.randint(256, (3, 50, 80), dtype=torch.uint8)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(random_views(image, 32, flip=0.5))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][1], drawn[2][1])
