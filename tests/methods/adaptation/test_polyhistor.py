"""Adapters for many tasks on a frozen pyramid."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.methods.adaptation.polyhistor import AdaptedBackbone, ScaledTemplates, adapt, hyper_networks


@pytest.fixture
def swin() -> ommatid.models.Backbone:
    torch.manual_seed(0)
    return ommatid.create_model("swin", dims=(8, 16), depths=(2, 1), heads=(1, 2), window_size=2, num_classes=3).eval()


@pytest.mark.parametrize("lite", [False, True])
def test_begins_as_the_backbone_and_each_task_goes_its_own_way(swin, lite: bool) -> None:
    adapted = AdaptedBackbone(swin, 3, lite=lite, embedding_dim=4, reduction=4, rank=2)
    image = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(adapted(image, 1), swin(image))
    optimizer = torch.optim.Adam([value for value in adapted.parameters() if value.requires_grad], lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        adapted(image, 1).square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in swin.parameters())
    assert not torch.allclose(adapted(image, 1), swin(image), atol=1e-4)
    assert not torch.allclose(adapted(image, 1), adapted(image, 2), atol=1e-5)
    assert adapted.features(image, 0)[1].shape == (2, 16, 2, 2)
    torch.testing.assert_close(adapted.for_task(1)(image), adapted(image, 1))


def test_identity_scales_feed_each_group_from_itself() -> None:
    templates = ScaledTemplates(2, [8, 24], embedding_dim=4, reduction=2, rank=2)
    with torch.no_grad():
        templates.scale_down[1].copy_(torch.eye(3))
        templates.scale_up[1].copy_(torch.eye(3))
    (_, (down, up)), x = templates(0), torch.zeros(1, 24)
    x[:, 8:16] = torch.randn(8)
    moved = adapt(x, down, up) - x
    assert moved[:, 8:16].abs().max() > 0
    assert moved[:, :8].abs().max() == moved[:, 16:].abs().max() == 0


def test_published_size() -> None:
    lite = hyper_networks(4, (96, 192, 384, 768), (2, 2, 6, 2))
    assert sum(parameter.numel() for parameter in lite.parameters()) == 56_020


def test_refuses_what_cannot_be_scaled() -> None:
    with pytest.raises(ValueError, match="first width"):
        hyper_networks(2, (8, 20), (1, 1), reduction=2)
    with pytest.raises(ValueError, match="stages"):
        AdaptedBackbone(ommatid.create_model("vit", image_size=8, patch_size=4, dim=8, depth=1, heads=2), 2)
