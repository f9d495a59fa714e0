"""FaceXFormer: tasks that share tokens but not heads, what answers mean, and the whole network."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ommatid.models import create_model
from ommatid.models.decoders.facexformer import ANSWERS, answers_of, decoded

SHAPE: dict[str, Any] = {"in_dims": [5, 6, 7, 8], "dim": 16, "depth": 2, "heads": 2, "mlp_dim": 24}


def maps() -> dict[str, torch.Tensor]:
    sizes = [(9, 11), (5, 6), (3, 3), (2, 2)]
    return {f"c{i + 1}": torch.randn(2, 5 + i, *size) for i, size in enumerate(sizes)}


def test_a_head_is_of_its_task_alone_and_a_token_of_all() -> None:
    torch.manual_seed(0)
    model, inputs = create_model("facexformer", **SHAPE).eval(), maps()
    with torch.no_grad():
        before = model(**inputs)
        assert before["masks"].shape == (2, 11, 36, 44)
        assert {name: answer.shape[1] for name, answer in before.items() if name != "masks"} == ANSWERS
        model.heads["age"][0].weight.mul_(2)
        changed = {name for name, answer in model(**inputs).items() if not torch.equal(answer, before[name])}
        assert changed == {"age"}
        model.task_tokens[5] += 1
        changed = {name for name, answer in model(**inputs).items() if not torch.equal(answer, before[name])}
    assert changed == set(before)


def test_each_face_keeps_the_answers_of_its_task() -> None:
    answers = {name: torch.arange(4.0)[:, None] for name in [*ANSWERS, "masks"]}
    kept = answers_of(answers, torch.tensor([4, 0, 4, 5]))
    faces = {name: answer.flatten().tolist() for name, answer in kept.items()}
    assert faces["masks"] == [1]
    assert faces["age"] == faces["gender"] == faces["race"] == [0, 2]
    assert faces["visibility"] == [3]
    assert faces["landmarks"] == faces["head_pose"] == faces["attributes"] == []


def test_what_answers_mean() -> None:
    torch.manual_seed(0)
    answers = {name: torch.randn(2, size) for name, size in ANSWERS.items()} | {"masks": torch.randn(2, 11, 8, 8)}
    answers["landmarks"][0, :2] = torch.tensor([-1.0, 1.0])
    meanings = decoded(answers)
    assert meanings["landmarks"].shape == (2, 68, 2)
    assert meanings["landmarks"][0, 0].tolist() == [-0.5, 223.5]
    assert torch.equal(meanings["attributes"], answers["attributes"].sigmoid() >= 0.5)
    assert meanings["masks"].shape == (2, 8, 8)
    assert meanings["race"].shape == (2,)


def test_the_network_is_a_backbone_and_the_decoder() -> None:
    fields = {"part": "network", "backbone": "pvt_v2_b0", "in_dims": [32, 64, 160, 256]}
    model = create_model("facexformer", **SHAPE | fields).eval()
    with torch.no_grad():
        answers = model(torch.randn(1, 3, 64, 64))
    assert answers["masks"].shape == (1, 11, 64, 64)
    assert all(math.isfinite(answer.sum()) for answer in answers.values())
    with pytest.raises(ValueError, match=r"in_dims = \(5, 6, 7, 8\).*allowed is \(32, 64, 160, 256\), of the backbone"):
        create_model("facexformer", **SHAPE | {"part": "network", "backbone": "pvt_v2_b0"})


def test_heads_must_divide_half_the_width() -> None:
    with pytest.raises(ValueError, match=r"heads = 16.*a divisor of the width \(8\)"):
        create_model("facexformer", **SHAPE | {"heads": 16})
