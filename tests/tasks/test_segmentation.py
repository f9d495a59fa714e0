"""Losses and metrics of pixels, and pictures of any size through a network."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ommatid.data.dense.masks import mask_boxes
from ommatid.tasks.segmentation_losses import LOSSES, cross_entropy, dice, lovasz
from ommatid.tasks.segmentation_metrics import PixelConfusion, iou_by_class
from ommatid.tasks.whole_or_window import Segmentation

CLASSES = 4


@pytest.fixture
def truth() -> torch.Tensor:
    torch.manual_seed(0)
    classes = torch.randint(0, CLASSES, (2, 9, 11))
    classes[:, :2] = 255
    return classes


def logits_for(answers: torch.Tensor) -> torch.Tensor:
    """So sure that a softmax of them is hard."""
    return 60 * F.one_hot(answers.clamp_max(CLASSES - 1), CLASSES).movedim(-1, 1).float()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_leave_ignored_pixels_out_and_have_gradients(name: str, truth: torch.Tensor) -> None:
    torch.manual_seed(1)
    logits = torch.randn(2, CLASSES, 9, 11, requires_grad=True)
    loss = LOSSES[name](logits, truth, None)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].any()
    changed = logits.detach().clone()
    changed[:, :, :2] = 99
    torch.testing.assert_close(LOSSES[name](changed, truth, None), loss.detach())
    nothing = torch.full_like(truth, 255)
    assert LOSSES[name](logits, nothing, torch.ones(CLASSES)) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_right_costs_nothing(name: str, truth: torch.Tensor) -> None:
    assert LOSSES[name](logits_for(truth), truth, None) == pytest.approx(0, abs=1e-5)


def test_lovasz_of_hard_answers_is_one_minus_iou(truth: torch.Tensor) -> None:
    torch.manual_seed(2)
    answers = torch.where(torch.rand(truth.shape) < 0.7, truth, torch.randint(0, CLASSES, truth.shape)).clamp_max(3)
    metric = PixelConfusion(CLASSES)
    metric.update(answers, truth)
    expected = 1 - metric.compute()["miou"]
    assert lovasz(logits_for(answers), truth) == pytest.approx(expected.item(), abs=1e-5)


def test_dice_of_hard_answers(truth: torch.Tensor) -> None:
    answers = torch.zeros_like(truth)
    zeros, counted = (truth == 0).sum().item(), (truth != 255).sum().item()
    expected = (1 - 2 * zeros / (zeros + counted) + CLASSES - 1) / CLASSES
    assert dice(logits_for(answers), truth) == pytest.approx(expected, abs=1e-5)


def test_cross_entropy_is_pytorchs(truth: torch.Tensor) -> None:
    logits, weights = torch.randn(2, CLASSES, 9, 11), torch.tensor([1.0, 2.0, 0.5, 3.0])
    expected = F.cross_entropy(logits, truth, weights, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, truth, weights), expected)


def test_metrics_are_torchmetrics(truth: torch.Tensor) -> None:
    torch.manual_seed(3)
    ours = PixelConfusion(CLASSES)
    iou = MulticlassJaccardIndex(CLASSES, ignore_index=255, average="macro")
    each = MulticlassJaccardIndex(CLASSES, ignore_index=255, average="none")
    accuracy = MulticlassAccuracy(CLASSES, ignore_index=255, average="micro")
    for _ in range(3):
        answers = torch.randint(0, CLASSES, truth.shape)
        for metric in (ours, iou, each, accuracy):
            metric.update(answers, truth)
    torch.testing.assert_close(ours.compute()["miou"], iou.compute())
    torch.testing.assert_close(ours.compute()["pixel_accuracy"], accuracy.compute())
    torch.testing.assert_close(iou_by_class(ours.counts), each.compute())


def test_a_class_that_is_nowhere_is_left_out_of_the_mean() -> None:
    metric = PixelConfusion(3)
    metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 1, 0]]))
    assert metric.compute()["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)


class Pointwise(nn.Module):
    """Its answer at a pixel depends on that pixel alone, so that windows change nothing."""

    largest = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.largest = max(self.largest, *image.shape[-2:])
        return torch.cat([image, -image], 1)


@pytest.mark.parametrize("size", [(8, 8), (7, 30), (33, 21)])
def test_windows_cover_every_pixel(size: tuple[int, int]) -> None:
    model, images = Pointwise(), torch.randn(2, 3, *size)
    torch.testing.assert_close(Segmentation("window", (8, 12))(model, images), torch.cat([images, -images], 1))
    assert model.largest <= 12


def test_the_whole_picture_is_made_to_fit() -> None:
    model, images = Pointwise(), torch.randn(1, 3, 40, 60)
    assert Segmentation("whole", (20, 30))(model, images).shape == (1, 6, 40, 60)
    assert model.largest == 30


def test_boxes_of_masks() -> None:
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7], masks[1, 5, 0] = True, True
    assert mask_boxes(masks).tolist() == [[2, 1, 7, 3], [0, 5, 1, 6]]
    assert mask_boxes(masks[:0]).shape == (0, 4)
