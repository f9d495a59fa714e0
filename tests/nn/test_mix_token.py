"""MixToken: a box of tokens changes places with that of the image at the batch's other end."""

import torch

from ommatid.nn.mix_token import Box, exchange, random_box


def test_only_the_box_is_exchanged() -> None:
    features = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 4, 5, 3)
    mixed = exchange(features, Box(1, 2, 3, 5))
    inside = torch.zeros(4, 5, dtype=torch.bool)
    inside[1:3, 2:5] = True
    assert (mixed[0][inside] == 1).all()
    assert (mixed[0][~inside] == 0).all()
    assert torch.equal(exchange(mixed, Box(1, 2, 3, 5)), features)


def test_boxes_lie_on_the_grid() -> None:
    torch.manual_seed(0)
    boxes = [random_box((4, 7)) for _ in range(50)]
    assert all(0 <= box.top <= box.bottom <= 4 and 0 <= box.left <= box.right <= 7 for box in boxes)
    assert len(set(boxes)) > 10
