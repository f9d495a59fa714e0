"""A class for every pixel, of any backbone, at any size."""

from __future__ import annotations

import pytest
import torch

import ommatid
from ommatid.models import create_model
from ommatid.models.decoders.segmenter import DECODERS

SMALL = {
    "backbone": "swin",
    "backbone_fields": {"dims": [16, 32, 64], "depths": [1, 1, 1], "heads": [1, 2, 4], "window_size": 4},
    "decoder_dim": 16,
    "num_classes": 5,
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_logits_have_the_size_of_the_image_and_reach_every_part(decoder: str) -> None:
    model = create_model("segmenter", **SMALL, decoder=decoder)
    logits = model(torch.rand(2, 3, 45, 61))
    assert logits.shape == (2, 5, 45, 61)
    logits.square().mean().backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert all(name.startswith("encoder.backbone.norm.") for name in unused), unused


def test_weights_and_config_survive_a_file(tmp_path) -> None:
    model = create_model("segmenter", **SMALL).eval()
    model.save(tmp_path / "model.safetensors")
    loaded = ommatid.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    image = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        assert torch.equal(loaded(image), model(image))


def test_checkpointing_changes_neither_answers_nor_gradients() -> None:
    image, gradients = torch.rand(2, 3, 32, 32), []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        model = create_model("segmenter", **SMALL, checkpoint=checkpoint)
        model(image).square().mean().backward()
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
    assert all(torch.allclose(plain, recomputed) for plain, recomputed in zip(*gradients, strict=True))


def test_a_frozen_backbone_stays_as_it_is() -> None:
    model = create_model("segmenter", **SMALL)
    model.freeze_backbone()
    model.train()
    assert not model.backbone.training
    model(torch.rand(2, 3, 32, 32)).mean().backward()
    assert all(value.grad is None for value in model.backbone.parameters())
    assert model.classifier.weight.grad is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "swin_tinny"}, "did you mean 'swin_tiny'"),
        ({"backbone": "hat_x2"}, "allowed is an image classifier"),
        ({"decoder": "mpl"}, "did you mean 'mlp'"),
        ({"backbone_fields": {"dept": 2}}, "did you mean 'depths'"),
        ({"decoder_fields": {"width": 2}}, "mlp has no further fields"),
    ],
)
def test_impossible_configs_are_refused_by_name(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model("segmenter", **fields)
