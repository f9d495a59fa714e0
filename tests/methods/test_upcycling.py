"""Upcycling: experts that start as copies change no answer, and everything goes on from there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ommatid
from ommatid.nn.moe import MoE, recorded_routings
from ommatid.nn.moe.layer import MapMoE

TINY = {
    "vit": {"image_size": 32, "patch_size": 8, "dim": 16, "depth": 4, "heads": 2},
    "swin": {"image_size": 32, "patch_size": 2, "dims": (8, 16), "depths": (2, 2), "heads": (1, 2), "window_size": 4},
    "convnext": {"dims": (8, 16), "depths": (2, 2)},
    "pyramid": {"dims": (8, 16), "depths": (2, 2), "mixer": "large_kernel", "channel_mixer": ["swiglu", "conv_glu"]},
}
FAMILIES = ["vit", "swin", "convnext", "pyramid"]


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ommatid.create_model(name, num_classes=5, **TINY[name]).eval()


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_as_before_until_trained(name: str, top_k: int) -> None:
    model, image = tiny(name), torch.rand(3, 3, 32, 32)
    upcycled = ommatid.upcycle(model, experts=3, top_k=top_k, every=2)
    with torch.no_grad(), recorded_routings(upcycled) as routings:
        torch.testing.assert_close(upcycled(image), model(image), rtol=1e-5, atol=1e-5)
    assert len(routings) == 2
    assert not any(isinstance(part, MoE) for part in model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_is_trained_saved_and_loaded(name: str, tmp_path) -> None:
    upcycled, image = ommatid.upcycle(tiny(name), experts=3, top_k=1, every=2).train(), torch.rand(8, 3, 32, 32)
    optimizer = torch.optim.SGD(upcycled.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        logits, balance = upcycled.with_auxiliary_loss(image)
        assert balance > 0
        (logits.square().mean() + balance).backward()
        assert all(
            part.router.logits.weight.grad.abs().sum() > 0 for part in upcycled.modules() if isinstance(part, MoE)
        )
        optimizer.step()
    upcycled.eval().save(tmp_path / "experts.safetensors")
    loaded = ommatid.load(tmp_path / "experts.safetensors")
    assert loaded.upcycled == {"experts": 3, "top_k": 1, "every": 2}
    with torch.no_grad():
        assert torch.equal(loaded(image), upcycled(image))
        torch.testing.assert_close(loaded.deploy()(image), upcycled(image), rtol=1e-4, atol=1e-4)


def test_every_second_layer_is_the_second_fourth_and_so_on() -> None:
    blocks = ommatid.upcycle(tiny("vit"), experts=2, top_k=1, every=2).blocks
    assert [isinstance(block.channel.inner, MoE) for block in blocks] == [False, True, False, True]


def test_layers_that_look_at_neighbours_let_images_choose() -> None:
    upcycled = ommatid.upcycle(tiny("pyramid"), experts=2, top_k=1, every=1)
    kinds = [type(part) for part in upcycled.modules() if isinstance(part, MoE)]
    assert kinds == [MoE, MoE, MapMoE, MapMoE]


def test_refuses_what_cannot_be() -> None:
    model = tiny("vit")
    with pytest.raises(ValueError, match="at least 5 of the kinds MLP"):
        ommatid.upcycle(model, every=5)
    with pytest.raises(ValueError, match="from 1 to the number of experts"):
        ommatid.upcycle(model, experts=2, top_k=3)
    with pytest.raises(ValueError, match="a positive integer"):
        ommatid.upcycle(model, every=0)
    with pytest.raises(ValueError, match="has experts already"):
        ommatid.upcycle(ommatid.upcycle(model))
    with pytest.raises(ValueError, match="none"):
        ommatid.upcycle(nn.Linear(2, 2))


def test_is_exported_for_any_number_of_images() -> None:
    upcycled, image = ommatid.upcycle(tiny("vit"), experts=3), torch.rand(2, 3, 32, 32)
    free = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(upcycled, (image,), dynamic_shapes=(free,)).module()
    more = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(program(more), upcycled(more), rtol=1e-4, atol=1e-5)
