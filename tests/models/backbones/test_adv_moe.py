"""AdvMoE: published sizes, and weights in the reference's order of a VGG."""

from __future__ import annotations

import torch

import ommatid


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_networks_have_the_published_sizes() -> None:
    model = ommatid.create_model("adv_moe_resnet18")
    assert count(model.router) == 269_202
    assert count(model) - count(model.router) == 5_565_450
    assert count(ommatid.create_model("adv_moe_resnet18", num_experts=1)) == 2_809_866
    assert count(ommatid.create_model("adv_moe_resnet18_dense")) == 11_173_962


def test_a_vgg_takes_its_weights_by_the_reference_order() -> None:
    torch.manual_seed(0)
    sizes = {"arch": "vgg", "vgg": (8, "M", 16, 16, "M"), "num_experts": 2, "router_depths": (1, 1, 1)}
    model = ommatid.create_model("adv_moe", **sizes).eval()
    image = torch.rand(3, 3, 12, 9)
    report = ommatid.load_reference(
        model,
        {
            "model.features.0.weight": torch.rand(4, 3, 3, 3),
            "model.features.1.weight": torch.rand(4),
            "model.features.4.weight": torch.rand(16, 4, 3, 3),
            "model.features.7.weight": torch.rand(16, 8, 3, 3),
            "model.classifier.4.bias": torch.rand(10),
        },
    )
    assert report.placed == 5
    assert not report.unexpected
    assert not report.mismatched
    assert model(image).shape == (3, 10)
    assert [stage.shape[1:] for stage in model.features(image)] == [(4, 6, 4), (8, 3, 2)]
    assert model.embed(image).shape == (3, 32)


def test_a_bottleneck_is_four_times_as_wide_behind() -> None:
    model = ommatid.create_model("adv_moe", block="bottleneck", depths=(1, 2), ratio=0.25, router_depths=(1, 1, 1))
    assert model.channels == (64, 128)
    logits, scores = model.scored(torch.rand(2, 3, 8, 8))
    assert logits.shape == (2, 10)
    assert scores.shape == (2, 2)
