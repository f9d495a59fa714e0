"""Projected maps of a student: what the views do not see, and whom the gradient reaches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ommatid
from ommatid.methods.distillation.scalekd import (
    CrossAttentionProjector,
    ScaleKD,
    TeacherStage,
    direct_loss,
    frequency_loss,
    plain_teacher_stages,
)


def test_the_frequencies_do_not_see_a_constant_and_neither_sees_a_factor() -> None:
    teacher, constant = torch.randn(2, 9, 5), torch.randn(5)
    assert frequency_loss(3 * teacher + constant, teacher) < 1e-9
    assert direct_loss(3 * teacher, teacher) < 1e-9
    assert direct_loss(teacher + constant, teacher) > 0.1


def projectors(student_dim: int, dim: int, **sizes) -> list[CrossAttentionProjector]:
    return [CrossAttentionProjector(student_dim, dim, heads=2, **sizes) for _ in range(2)]


def test_a_pyramid_teaches_with_its_last_stage() -> None:
    torch.manual_seed(0)
    teacher = ommatid.create_model(
        "swin", dims=(8, 16), depths=(1, 1), heads=(1, 2), window_size=2, num_classes=0
    ).eval()
    student = ommatid.create_model("convnext", dims=(6, 10), depths=(1, 1), num_classes=0)
    image = torch.rand(2, 3, 16, 24)
    learning = ScaleKD(
        projectors(6, 8, student_size=(4, 6), query_size=(4, 6)),
        projectors(10, 16, student_size=(2, 3), query_size=(2, 3), learned_query=False),
        TeacherStage(teacher.stages[-1], teacher.norm, (4, 6)),
    )
    with torch.no_grad():
        target = teacher.norm(teacher.features(image)[-1].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.stack([*learning(*student.features(image), target).values()]).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(value.grad is not None for value in learning.stage3.parameters())
    assert all(value.grad is not None for value in student.stages[0].parameters())


def test_a_plain_transformer_teaches_with_its_last_blocks() -> None:
    teacher = ommatid.create_model("vit", image_size=16, patch_size=4, dim=8, depth=5, heads=2, num_classes=0).eval()
    stage, end = plain_teacher_stages(teacher)
    sizes = {"student_size": (4, 4), "query_size": (4, 4)}
    learning = ScaleKD(
        projectors(6, 8, **sizes), projectors(6, 8, **sizes, learned_query=False), stage, teacher_end=end
    )
    student = torch.randn(2, 6, 4, 4)
    assert all(loss > 0 for loss in learning(student, student, torch.randn(2, 8, 4, 4)).values())


def test_windows_answer_as_maps_of_their_own() -> None:
    sizes = {"heads": 2, "learned_query": False, "norm": nn.Identity}
    cut = CrossAttentionProjector(4, 8, student_size=(4, 6), query_size=(2, 4), windows=(1, 2), **sizes)
    left = CrossAttentionProjector(4, 8, student_size=(4, 3), query_size=(2, 2), **sizes)
    state = cut.state_dict()
    left.load_state_dict(state | {"position": state["position"][:, :, :3]})
    # A convolution would look over the edge between the windows.
    cut.source = left.source = nn.Identity()
    x, query = torch.randn(1, 4, 4, 6), torch.randn(1, 2, 4, 8)
    expected = left(x[..., :3], query[:, :, :2].flatten(1, 2))
    torch.testing.assert_close(cut(x, query.flatten(1, 2))[:, :4], expected)


def test_refuses_other_maps_and_queries() -> None:
    projector, _ = projectors(4, 8, student_size=(4, 4), query_size=(2, 2))
    with pytest.raises(ValueError, match="map size"):
        projector(torch.randn(1, 4, 4, 5))
    with pytest.raises(ValueError, match="query"):
        projector(torch.randn(1, 4, 4, 4), torch.randn(1, 4, 8))
    with pytest.raises(ValueError, match="query_size"):
        projectors(4, 8, student_size=(4, 4), query_size=(3, 3), windows=(2, 2))
