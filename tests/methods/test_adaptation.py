"""Training on pictures without labels: the properties that its steps have whatever the pictures are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ommatid.methods.adaptation.feature_distance import coarse_label, thing_distance
from ommatid.methods.adaptation.mean_teacher import MeanTeacher
from ommatid.methods.adaptation.rare_classes import draw_crop, draw_source, rare_class_shares
from ommatid.methods.adaptation.self_training import (
    class_mask,
    mixed_pictures,
    pseudo_labels,
    weighted_cross_entropy,
)

PIXELS = torch.tensor([[0, 900, 40, 0], [300, 0, 40, 0], [0, 100, 220, 0]])


def test_rarer_classes_are_drawn_more_often_and_alike_when_hot() -> None:
    classes, shares = rare_class_shares(PIXELS, temperature=0.1)
    # Two classes have 300 pixels: the first image shows one of them.
    assert classes.tolist() == [2, 0, 1]
    assert shares.sum().item() == pytest.approx(1)
    assert (shares.diff() <= 0).all()
    assert torch.allclose(rare_class_shares(PIXELS, temperature=1e9)[1], torch.full((3,), 1 / 3))


def test_a_drawn_image_has_enough_of_its_class() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        kind, image = draw_source(PIXELS, temperature=1.0, min_pixels=50, generator=generator)
        assert PIXELS[image, kind] > 50
    with pytest.raises(ValueError, match="min_pixels = 5000 is not possible: allowed is below"):
        draw_source(PIXELS, min_pixels=5000)


def test_a_crop_is_tried_until_it_has_enough_of_the_class() -> None:
    label = torch.zeros(40, 60, dtype=torch.long)
    label[:, 30:] = 3
    for seed in range(5):
        top, left = draw_crop(
            label, (20, 20), 3, min_pixels=100, tries=100, generator=torch.Generator().manual_seed(seed)
        )
        assert (label[top : top + 20, left : left + 20] == 3).sum() > 100
    with pytest.raises(ValueError, match="size = "):
        draw_crop(label, (41, 20), 3)


def test_a_cell_has_the_class_of_most_of_its_pixels_or_none() -> None:
    label = torch.tensor([[1, 1, 2, 2], [1, 2, 2, 255], [255, 255, 0, 0], [255, 0, 0, 0]])[None, None]
    assert coarse_label(label, 2, num_classes=3)[0, 0].tolist() == [[1, 2], [255, 0]]
    assert coarse_label(label, 2, num_classes=3, min_ratio=0.8)[0, 0].tolist() == [[255, 255], [255, 0]]


def test_what_was_not_forgotten_costs_nothing() -> None:
    features, label = torch.rand(2, 8, 4, 4, requires_grad=True), torch.ones(2, 1, 16, 16, dtype=torch.long)
    loss = thing_distance(features, features.detach(), label, (1,), num_classes=3)
    assert loss == 0
    loss.backward()
    assert torch.isfinite(features.grad).all()


def test_pasted_everywhere_the_source_is_left_and_counts_whole() -> None:
    source, target = (torch.rand(2, 3, 8, 8), torch.randint(0, 4, (2, 8, 8))), (torch.rand(2, 3, 8, 8), None)
    pseudo, weight = pseudo_labels(torch.randn(2, 4, 8, 8), ignore_top=1, ignore_bottom=0)
    everywhere = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    mixed = mixed_pictures(everywhere, source, (target[0], pseudo), weight)
    assert torch.equal(mixed.image, source[0])
    assert torch.equal(mixed.label, source[1])
    logits = torch.randn(2, 4, 8, 8)
    plain = nn.functional.cross_entropy(logits, source[1])
    assert torch.allclose(weighted_cross_entropy(logits, mixed.label, mixed.weight), plain)


def test_sure_of_everything_all_rows_count_but_those_left_out() -> None:
    weight = pseudo_labels(torch.randn(2, 4, 8, 8), threshold=0.0, ignore_top=2, ignore_bottom=3)[1]
    assert weight[0, :, 0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_half_of_the_classes_are_pasted_those_without_label_being_one() -> None:
    label = torch.tensor([[0, 1], [4, 255]])[None, None]
    mask = class_mask(label, torch.tensor([[0.9, 0.1, 0.5, 0.2]]))
    assert mask[0, 0].tolist() == [[False, True], [False, True]]


def test_a_teacher_begins_as_its_student_and_follows_it() -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout2d(0.5))
    teacher, image = MeanTeacher(student), torch.rand(2, 3, 4, 4)
    first = student[0].weight.detach().clone()
    with torch.no_grad():
        student[0].weight.add_(1.0)
    teacher.update_(student, 1)
    assert torch.allclose(teacher.model[0].weight, first + 0.5)
    assert torch.equal(teacher(image), teacher(image))  # nothing is dropped, and the batch's own statistics norm it
    assert teacher.model[1].num_batches_tracked == 2
    teacher.update_(student, 0)
    assert torch.equal(teacher.model[0].weight, student[0].weight)
