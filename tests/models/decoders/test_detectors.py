"""Detectors on any backbone: they learn a scene by heart, empty images too, and come back from a file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from squares import scene

import ommatid
from ommatid.models import create_model
from ommatid.models.decoders.mask_transformer import log_odds

BACKBONE = {
    "backbone": "convnext",
    "backbone_fields": {"dims": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
    "num_classes": 3,
}
DETECTORS: dict[str, dict[str, Any]] = {
    "deformable_detr": {
        "dim": 32,
        "heads": 4,
        "mlp_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "num_queries": 8,
    },
    "fcos": {"decoder_dim": 16, "head_depth": 1, "strides": [8, 16, 32, 64]},
    "mask2former": {
        "conv_dim": 32,
        "mask_dim": 16,
        "encoder_layers": 1,
        "encoder_heads": 4,
        "encoder_mlp_dim": 32,
        "dim": 32,
        "heads": 4,
        "mlp_dim": 32,
        "decoder_layers": 3,
        "num_queries": 6,
        "points": 256,
    },
    "kmax": {
        "pixel_depths": [1, 1, 1, 1],
        "pixel_dims": [16, 16, 16, 16],
        "depths": [1, 1, 1],
        "num_queries": 6,
        "points": 256,
    },
    "pem_maskformer": {
        "conv_dim": 16,
        "mask_dim": 16,
        "dim": 32,
        "heads": 4,
        "ffn_dim": 32,
        "decoder_layers": 3,
        "queries": 6,
        "points": 256,
    },
    "retinanet": {"decoder_dim": 16, "head_depth": 1, "strides": [8, 16, 32, 64]},
}


LEARN_SOON = [name for name in DETECTORS if name != "kmax"]
"""The masks of kMaX start nearly alike, behind a norm with a weight of 0.1: they take more steps."""


@pytest.mark.parametrize("name", LEARN_SOON)
def test_learns_a_scene_by_heart(name: str) -> None:
    image, targets = scene()
    model = create_model(name, **BACKBONE, **DETECTORS[name])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = sum(model.losses(image, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen, nothing = model.eval().detect(image, score_threshold=0.3)
    assert seen["labels"][:2].sort().values.tolist() == [0, 2]
    by_label = {int(label): box for label, box in zip(seen["labels"][:2], seen["boxes"][:2], strict=True)}
    wanted = dict(zip(targets[0]["labels"].tolist(), targets[0]["boxes"], strict=True))
    for label, box in by_label.items():
        assert (box - wanted[label]).abs().max() < 6, (box, wanted[label])
    assert len(nothing["boxes"]) == 0


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_are_finite_and_reach_every_part(name: str) -> None:
    image, targets = scene()
    model = create_model(name, **BACKBONE, **DETECTORS[name])
    losses = model.losses(image, targets)
    assert all(loss.dim() == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    unused = [name for name, value in model.named_parameters() if value.grad is None]
    assert all(name.startswith("encoder.backbone.norm.") for name in unused), unused
    empty = model.losses(image[1:].expand(2, -1, -1, -1), 2 * targets[1:])
    assert all(torch.isfinite(loss) for loss in empty.values())
    sum(empty.values()).backward()


@pytest.mark.parametrize("name", DETECTORS)
def test_detections_stay_inside_the_image_best_first_and_survive_a_file(name: str, tmp_path) -> None:
    image, _ = scene()
    model = create_model(name, **BACKBONE, **DETECTORS[name]).eval()
    found = model.detect(image, score_threshold=0.0, most=7)
    for each in found:
        assert len(each["boxes"]) <= 7
        assert (each["boxes"] >= 0).all()
        assert (each["boxes"] <= torch.tensor([117, 69, 85, 93])).all()
        assert (each["scores"].diff() <= 0).all()
        assert all(0 <= label < 3 for label in each["labels"])
    model.save(tmp_path / "model.safetensors")
    again = ommatid.load(tmp_path / "model.safetensors").detect(image, score_threshold=0.0, most=7)
    assert all(torch.equal(one["boxes"], other["boxes"]) for one, other in zip(found, again, strict=True))


def test_masks_give_semantic_and_panoptic_answers() -> None:
    image, _ = scene()
    model = create_model("mask2former", **BACKBONE, **DETECTORS["mask2former"]).eval()
    with torch.no_grad():
        classes = model.semantic(image)
    assert classes.shape == (2, 3, 69, 85)
    assert (classes >= 0).all()
    for answer in model.panoptic(image, things=(0,), score_threshold=0.0):
        count = len(answer["labels"])
        assert answer["segments"].shape == (69, 85)
        assert set(answer["segments"].unique().tolist()) <= set(range(count + 1))
        assert len(answer["scores"]) == count
        stuff = answer["labels"][answer["labels"] != 0].tolist()
        assert len(stuff) == len(set(stuff)), "classes that are no things have one segment each"


@pytest.mark.parametrize("spread", [0.0, 3.0, 30.0])
def test_log_odds_are_exact_also_where_one_query_has_nearly_all(spread: float) -> None:
    logits = spread * torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    expected = logits.double().softmax(1).logit(eps=1e-6)
    odds = log_odds(logits)
    torch.testing.assert_close(odds.double(), expected, rtol=1e-5, atol=2e-5)
    wanted, found = (torch.autograd.grad(value.square().sum(), logits)[0] for value in (expected, odds))
    assert found.isfinite().all()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
