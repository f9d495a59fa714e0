"""export of networks for pixels, boxes and masks: what their files answer, in the sizes that are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ommatid.models import create_model, load, save
from ommatid.runs.trained import SceneFacts
from ommatid.workflows.export import export

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

SMALL = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "mlp_ratios": [1, 1, 1, 1]}


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
