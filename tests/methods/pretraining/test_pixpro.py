"""What PixPro's losses must not depend on, and where they end."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import ommatid
from ommatid.methods.pretraining.pixel_matching import consistency_loss, contrast_loss, crop_box, matching_pixels
from ommatid.methods.pretraining.pixpro import PixPro, PixProHeads, Views, propagate

BOX = torch.tensor([[0.1, 0.2, 0.6, 0.8]])


def maps(seed: int, dim: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(1, 3, 4, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_flipped_crop_has_its_columns_swapped() -> None:
    box = crop_box((5, 10, 20, 30), (101, 201))
    torch.testing.assert_close(box, torch.tensor([0.05, 0.05, 39 / 200, 0.24]))
    assert torch.equal(crop_box((5, 10, 20, 30), (101, 201), flipped=True), box[[2, 1, 0, 3]])


def test_pixels_match_their_mirror_images() -> None:
    flipped = BOX[:, [2, 1, 0, 3]]
    matching = matching_pixels(maps(0), maps(1), BOX, flipped, 0.1).view(3, 4, 3, 4)
    rows, columns = torch.arange(3), torch.arange(4)
    expected = torch.zeros(3, 4, 3, 4, dtype=torch.bool)
    expected[rows[:, None], columns, rows[:, None], 3 - columns] = True
    assert torch.equal(matching, expected)


def test_moving_or_scaling_both_boxes_changes_nothing() -> None:
    other = torch.tensor([[0.3, 0.1, 0.7, 0.9]])
    loss = consistency_loss(maps(0), maps(1), BOX, other)
    torch.testing.assert_close(consistency_loss(maps(0), maps(1), BOX + 0.1, other + 0.1), loss)
    torch.testing.assert_close(consistency_loss(maps(0), maps(1), 2 * BOX, 2 * other), loss)


def test_a_view_agrees_with_itself() -> None:
    torch.testing.assert_close(consistency_loss(maps(0), maps(0), BOX, BOX, 0.1), torch.tensor(-2.0))
    direction = F.normalize(propagate(maps(0), maps(0), power=1e4), dim=-1)
    torch.testing.assert_close(direction, maps(0), atol=1e-3, rtol=1e-3)


def test_contrast_of_equal_pixels_is_chance() -> None:
    alike = maps(0)[:, :1, :1].expand(1, 3, 4, 8)
    torch.testing.assert_close(contrast_loss(alike, alike, BOX, BOX, pos_ratio=0.1), torch.tensor(math.log(12)))
    apart = torch.tensor([[0.8, 0.8, 0.9, 0.9]])
    assert contrast_loss(alike, alike, BOX, apart) == 0


@pytest.mark.parametrize("options", [{"transform_layers": 2, "power": 0.5}, {"transform_layers": 0}], ids=str)
def test_swapping_the_views_changes_nothing(options: dict) -> None:
    heads = PixProHeads(8, inner_dim=6, out_dim=4, instance_weight=1.0, **options).eval()
    views, boxes = Views(maps(0), maps(1)), Views(BOX, BOX + 0.1)
    loss = heads(views, views, boxes)
    torch.testing.assert_close(heads(Views(*views[::-1]), Views(*views[::-1]), Views(*boxes[::-1])), loss)


def test_the_key_branch_follows_and_is_not_trained() -> None:
    encoder = ommatid.create_model("convnext", dims=(8, 8), depths=(1, 1), num_classes=0)
    learner = PixPro(encoder, inner_dim=6, out_dim=4)
    with torch.no_grad():
        encoder.stem.proj.bias.add_(1)
    images = Views(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
    learner(images, Views(BOX.expand(2, 4), BOX.expand(2, 4)), 0.9).backward()
    torch.testing.assert_close(learner.encoder_k.stem.proj.bias, encoder.stem.proj.bias - 0.9)
    assert encoder.stem.proj.bias.grad is not None
    assert all(parameter.grad is None for parameter in learner.encoder_k.parameters())
