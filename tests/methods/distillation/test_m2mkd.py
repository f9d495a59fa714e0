"""Pairs of parts in a meta model: who learns, when they agree, and what is put together."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.distillation.m2mkd import ModulePair, StudentModule, assembled, distillation_loss, stitch
from ommatid.models.backbones.vit import ViT, ViTConfig


def config(depth: int, dim: int = 8) -> ViTConfig:
    return ViTConfig(image_size=8, patch_size=4, dim=dim, depth=depth, heads=2, num_classes=3)


def pair(index: int, student_dim: int = 6) -> ModulePair:
    torch.manual_seed(0)
    position = {0: "first", -1: "last"}.get(index, "middle")
    student = StudentModule(config(2, student_dim), 8, position)
    return ModulePair(ViT(config(6)), (3, 2, 1), ViT(config(3)), (1, 1, 1), student, index)


@pytest.mark.parametrize("index", [0, 1, -1])
def test_only_the_students_part_learns(index: int) -> None:
    hybrid, label = pair(index), torch.tensor([0, 2])
    answers = hybrid(torch.rand(2, 3, 8, 8))
    base = torch.nn.functional.cross_entropy(answers.student, label)
    distillation_loss(base, answers.student, answers.teacher).backward()
    for name, parameter in hybrid.named_parameters():
        assert (parameter.grad is not None) == name.startswith("student."), name


def test_the_same_part_without_stitches_gives_the_same_answer() -> None:
    hybrid = pair(1, student_dim=8)
    hybrid.student.entry = hybrid.student.exit = torch.nn.Identity()
    hybrid.student.blocks = torch.nn.Sequential(*list(hybrid.teacher.blocks)[3:5])
    answers = hybrid(torch.rand(2, 3, 8, 8))
    torch.testing.assert_close(answers.student, answers.teacher)


def test_parts_become_a_model_that_computes_what_they_do() -> None:
    parts = [StudentModule(config(1), 8, position) for position in ("first", "middle", "last")]
    image = torch.rand(2, 3, 8, 8)
    student = assembled(parts, config(3))
    tokens = parts[0].blocks(parts[0].entry(image))
    expected = parts[2].exit(parts[2].blocks(parts[1].blocks(tokens)))
    torch.testing.assert_close(student(image), expected)
    with pytest.raises(ValueError, match="depth"):
        assembled(parts, config(4))
    with pytest.raises(ValueError, match="modules"):
        assembled(parts[1:], config(2))


def test_stitches_of_other_networks_have_no_norm() -> None:
    assert stitch(4, 6, norm=False)(torch.zeros(1, 4)).shape == (1, 6)


def test_refuses_pairs_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="index"):
        pair(3)
    teacher = {"dim": 8, "heads": 2, "divided_depths": [2]}
    with pytest.raises(ValueError, match="divided_depths"):
        ommatid.create_model("m2mkd", teacher=teacher, meta_depths=[1], student={"dim": 8, "heads": 2})
