"""A student in a vision-language model's space: what trains when, and what is cut."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.distillation.vl2v_adip import (
    ProjectedStudent,
    cutmix,
    cutmix_box,
    embedding_loss,
    prompts,
    text_classifier,
)


@pytest.mark.parametrize(("stage", "trained"), [("align", "proj"), ("distill", "backbone")])
def test_a_stage_trains_its_part_alone(stage: str, trained: str) -> None:
    backbone = ommatid.create_model("vit", image_size=8, patch_size=4, dim=8, depth=1, heads=2, num_classes=0)
    student = ProjectedStudent(backbone, 8, 6).train_part(stage)
    text = text_classifier(torch.randn(3, 2, 6))
    embedding_loss(student(torch.rand(2, 3, 8, 8)), torch.randn(2, 6), text[torch.tensor([0, 2])]).backward()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is not None) == name.startswith(trained)


def test_loss_is_least_where_all_agree_and_no_length_matters() -> None:
    embedding = torch.randn(4, 6)
    assert embedding_loss(embedding, 3 * embedding, 7 * embedding).item() == pytest.approx(-1)
    other, text = torch.randn(2, 4, 6)
    torch.testing.assert_close(embedding_loss(embedding, other, text), embedding_loss(2 * embedding, 5 * other, text))


def test_box_is_cut_at_the_edge() -> None:
    box, kept = cutmix_box((32, 16), torch.tensor([0.75, 0.75]), torch.tensor([[16, 8], [0, 15]]))
    assert box.tolist() == [[8, 4, 24, 12], [0, 11, 8, 16]]
    assert kept.tolist() == [0.75, 1 - 40 / 512]


def test_mixed_images_hold_what_the_share_says() -> None:
    torch.manual_seed(0)
    image = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 9, 12)
    mixed, others, kept = cutmix(image)
    expected = kept * image[:, 0, 0, 0] + (1 - kept) * others
    torch.testing.assert_close(mixed.mean((1, 2, 3)), expected.float())


def test_prompts_read_as_words() -> None:
    assert prompts(["alarm_clock"]) == ["a photo of a alarm clock"]
