"""export of networks for pixels, boxes and masks: what their files answer, in the sizes that are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ommatid.models import create_model, load, save
from ommatid.runs.trained import SceneFacts
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.export import export

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SMALL = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "mlp_ratios": [1, 1, 1, 1]}
QUERIES = {"dim": 32, "heads": 4, "mlp_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 6}


def saved(folder: Path, task: str, family: str, **fields: Any) -> Path:
    torch.manual_seed(0)
    model = create_model(family, backbone="pvt_v2", backbone_fields=SMALL, num_classes=4, **fields)
    facts = SceneFacts(task, family, ("a", "b", "c", "d"), (64, 96), "whole", (0.5,) * 3, (0.25,) * 3)
    save(model, folder / "best.safetensors", extra=facts.to_header())
    return folder / "best.safetensors"


def told_and_session(weights: Path) -> tuple[dict[str, Any], Any]:
    done = export(weights)
    assert done.error < 1e-4
    return json.loads(done.description.read_text()), onnxruntime.InferenceSession(done.path)


def test_a_segmentation_network_gives_logits_of_every_pixel_in_any_size_named(tmp_path: Path) -> None:
    weights = saved(tmp_path, "segmentation", "segmenter", decoder="mlp", decoder_dim=16)
    told, session = told_and_session(weights)
    assert (told["multiple"], told["classes"], list(told["outputs"])) == ([32, 32], ["a", "b", "c", "d"], ["answer"])
    for shape in [(1, 3, 64, 96), (3, 3, 96, 160)]:
        images = torch.rand(shape)
        (answer,) = session.run(["answer"], {"image": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(answer), load(weights)(images).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "fields"), [("fcos", {"decoder_dim": 16}), ("retinanet", {"decoder_dim": 16}), ("deformable_detr", QUERIES)]
)
def test_what_a_detector_finds_is_in_its_files_boxes(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    weights = saved(tmp_path, "detection", family, **fields)
    told, session = told_and_session(weights)
    height, width = told["shortest"]
    images = torch.rand(3, 3, height, width + told["multiple"][1])
    boxes, scores = (torch.from_numpy(part) for part in session.run(["boxes", "scores"], {"image": images.numpy()}))
    assert boxes.shape[:2] == scores.shape[:2]
    assert scores.shape[2] == 4
    for found, mine in zip(load(weights).detect(images, score_threshold=0.0, most=1), scores, strict=True):
        torch.testing.assert_close(found["scores"][0], mine.max(), rtol=1e-3, atol=1e-4)


def test_a_mask_transformer_gives_masks_and_their_scores(tmp_path: Path) -> None:
    head = {"conv_dim": 32, "mask_dim": 16, "encoder_heads": 4, "encoder_mlp_dim": 32, "points": 64}
    weights = saved(tmp_path, "instances", "mask2former", **QUERIES, **head)
    _, session = told_and_session(weights)
    images = torch.rand(1, 3, 96, 64)
    scores, masks = session.run(["scores", "masks"], {"image": images.numpy()})
    assert scores.shape == (1, 6, 4)
    classes, expected = load(weights).whole(images)
    torch.testing.assert_close(torch.from_numpy(scores), classes.softmax(-1)[..., :-1].detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(masks), expected.detach(), rtol=1e-3, atol=1e-3)


def test_what_takes_no_such_file_says_so_in_one_line(tmp_path: Path) -> None:
    done = export(saved(tmp_path, "segmentation", "segmenter", decoder="linear", decoder_dim=16), format="torch")
    with pytest.raises(ValueError, match="the exported file of a segmentation network") as caught:
        evaluate(done.path, "scenes")
    assert "\n" not in str(caught.value)
