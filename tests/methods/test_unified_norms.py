"""Unified norms in the place of layer norms: trained, saved and loaded as any model, and gone when deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ommatid
from ommatid.methods.unified_norms import unify_norms
from ommatid.models.backbones.vit import ViT
from ommatid.nn.unified_norm import UnifiedNorm

MODELS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 16, "patch_size": 4, "dim": 16, "heads": 2, "depth": 2},
    "swin": {"image_size": 32, "patch_size": 2, "dims": (16, 32), "depths": (2, 1), "heads": (2, 4), "window_size": 4},
    "pvt_v2": {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "heads": (1, 1, 2, 2)},
    "convnext": {"dims": (16, 32), "depths": (1, 1)},
}


def layers(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [part for part in model.modules() if isinstance(part, kind)]


def learn(model: nn.Module, image: Tensor, steps: int = 4) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(image).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(params=MODELS)
def plain(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return ommatid.create_model(request.param, num_classes=3, **MODELS[request.param]).eval()


def test_every_layer_norm_is_replaced_and_the_model_stays_as_it_was(plain: nn.Module, tmp_path: Path) -> None:
    image = torch.rand(2, 3, *([plain.config.image_size] * 2 if hasattr(plain.config, "image_size") else [32, 32]))
    norms = len(layers(plain, nn.LayerNorm))
    before = plain(image)
    model = learn(unify_norms(plain, warmup_iters=2), image)
    assert len(layers(model, UnifiedNorm)) == norms > 0
    assert not layers(model, nn.LayerNorm)
    assert torch.equal(plain(image), before)
    model.save(tmp_path / "unified.safetensors")
    loaded = ommatid.load(tmp_path / "unified.safetensors")
    assert torch.equal(loaded(image), model(image))


def test_deployed_answers_stay_and_norms_in_front_of_linear_layers_are_gone(plain: nn.Module) -> None:
    image = torch.rand(2, 3, *([plain.config.image_size] * 2 if hasattr(plain.config, "image_size") else [32, 32]))
    model = learn(unify_norms(plain, warmup_iters=2), image)
    deployed = model.deploy()
    left = [name for name, part in deployed.named_modules() if isinstance(part, UnifiedNorm)]
    if isinstance(plain, ViT):
        assert left == ["token_norm"], "what gives the features stays"
    assert not any(name.endswith("channel.norm") for name in left)
    torch.testing.assert_close(deployed(image), model(image), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_replaced_is_refused() -> None:
    model = ommatid.create_model("vit", num_classes=3, **MODELS["vit"])
    with pytest.raises(ValueError, match="has unified norms already"):
        unify_norms(unify_norms(model))
    with pytest.raises(ValueError, match="has no layer norms"):
        unify_norms(ommatid.create_model("simplenet", num_classes=3))
    with pytest.raises(ValueError, match="window = 0 is not possible"):
        unify_norms(model, window=0)
