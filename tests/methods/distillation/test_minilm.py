"""Relations of tokens: what they do not depend on, and where they come from."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.distillation.minilm import Projections, last_projections, minilm_losses, minilm_v2_losses


def projections(tokens: int, dim: int) -> Projections:
    return Projections(*torch.randn(3, 2, tokens, dim))


def test_masked_tokens_change_nothing() -> None:
    torch.manual_seed(0)
    teacher, student = projections(7, 12), projections(7, 6)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]] * 2)
    short = [Projections(*(tensor[:, :4] for tensor in model)) for model in (teacher, student)]
    masked, cut = minilm_losses(teacher, student, heads=3, mask=mask), minilm_losses(*short, heads=3)
    for name, loss in cut.items():
        torch.testing.assert_close(masked[name], loss)


def test_second_version_with_the_models_heads_has_the_first_ones_value_loss() -> None:
    teacher, student = projections(5, 12), projections(5, 8)
    first = minilm_losses(teacher, student, heads=4)
    assert torch.equal(first["value_loss"], minilm_v2_losses(teacher, student, relation_heads=4)["vv_loss"])


def test_a_model_has_nothing_to_learn_from_itself() -> None:
    small = {"image_size": 16, "patch_size": 8, "depth": 2, "num_classes": 3}
    teacher = ommatid.create_model("vit", dim=16, heads=2, **small)
    student = ommatid.create_model("vit", dim=12, heads=4, **small)
    image = torch.rand(2, 3, 16, 16)
    found = [last_projections(model, image) for model in (teacher, student)]
    assert all(loss < 1e-6 for loss in minilm_losses(found[0], found[0], heads=2).values())
    torch.stack([*minilm_v2_losses(*found, relation_heads=4).values()]).sum().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.get_parameter("blocks.0.token.inner.qkv.weight").grad.abs().sum() > 0


def test_refuses_other_tokens_and_widths() -> None:
    with pytest.raises(ValueError, match="tokens"):
        minilm_losses(projections(5, 12), projections(6, 12), heads=3)
    with pytest.raises(ValueError, match="divisor"):
        minilm_losses(projections(5, 12), projections(5, 12), heads=5)
