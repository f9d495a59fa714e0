"""Detectors written as rows: they learn a scene by heart, and say which row is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from squares import scene

import ommatid
from ommatid.models import create_model
from ommatid.models.decoders.rows import Row, RowGraph, Scaling, concat, upsample
from ommatid.models.decoders.task_aligned import task_aligned

LEYOLO = [
    [-1, "conv", 8, 3, 2],
    [-1, "conv", 16, 3, 2],
    [-1, "block", 16, 3, 32, 2, True],
    [-1, "block", 24, 3, 48, 2, True],
    [-1, "block", 32, 3, 48, 2, True],
    [-1, "sppf", 32, 3],
    [-1, "upsample"],
    [[-1, 3], "concat"],
    [-1, "block", 24, 3, None, 1, False],
    [[2, 8, 5], "detect"],
]
MAMBA_YOLO = [
    [-1, "stem", 16, 3],
    [-1, "vss", 16, 1],
    [-1, "merge", 24],
    [-1, "vss", 24, 1],
    [-1, "merge", 32],
    [-1, "sppf", 32, 3],
    [-1, "upsample"],
    [[-1, 3], "concat"],
    [-1, "xss", 24, 2],
    [-1, "conv", 24, 3, 2],
    [[8, 9], "detect"],
]
DETECTORS: dict[str, list[Any]] = {"leyolo": LEYOLO, "mamba_yolo": MAMBA_YOLO}


@pytest.mark.parametrize("name", DETECTORS)
def test_learns_a_scene_by_heart_and_survives_a_file(name: str, tmp_path) -> None:
    image, targets = scene()
    model = create_model(name, graph=DETECTORS[name], num_classes=3)
    assert all(loss.isfinite() for loss in model.losses(image[1:].expand(2, -1, -1, -1), 2 * targets[1:]).values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = sum(model.losses(image, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for _ in range(100):  # the running statistics follow slowly, by the published momentum
        with torch.no_grad():
            model(image)
    seen, nothing = model.eval().detect(image, score_threshold=0.3)
    assert sorted(seen["labels"].tolist()) == [0, 2]
    wanted = dict(zip(targets[0]["labels"].tolist(), targets[0]["boxes"], strict=True))
    for label, box in zip(seen["labels"].tolist(), seen["boxes"], strict=True):
        assert (box - wanted[label]).abs().max() < 6, (box, wanted[label])
    assert len(nothing["boxes"]) == 0
    model.save(tmp_path / "model.safetensors")
    again = ommatid.load(tmp_path / "model.safetensors")
    assert again.config == model.config
    assert torch.equal(again.detect(image, score_threshold=0.3)[0]["boxes"], seen["boxes"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, "blok", 8], "graph.2. kind = 'blok' is not possible: allowed is conv, block"),
        ([-1, "conv", 8, 3], "allowed is .from, 'conv', channels, kernel_size, stride."),
        ([-1, "conv", 8, 3, 0], "graph.2. stride = 0 is not possible: allowed is a positive integer"),
        ([-1, "conv", 8, 4, 2], "kernel_size = 4 is not possible: allowed is an odd number, or the stride"),
        ([-1, "block", 8, 3, 64, 1, False], "expansion = 64 is not possible: allowed is the width of the input"),
        ([5, "upsample"], "graph.2. from = 5 is not possible: allowed is -1 or numbers of earlier rows, below 2"),
        ([[0, 1], "concat"], "graph.2. from = .0, 1. is not possible: allowed is rows of one resolution"),
        ([[1, 1], "upsample"], "graph.2. from = .1, 1. is not possible: allowed is one row, for 'upsample'"),
    ],
)
def test_a_wrong_row_is_named(row: list[Any], message: str) -> None:
    graph = [*LEYOLO[:2], row, [[1], "detect"]]
    with pytest.raises(ValueError, match=message):
        create_model("leyolo", graph=graph)


def test_a_row_is_fed_by_those_it_names() -> None:
    rows = [Row((-1,), "upsample", ()), Row((0,), "upsample", ()), Row((0, 0), "concat", ())]
    graph = RowGraph(rows, 3, {"upsample": upsample, "concat": concat}, Scaling(1.0, 8, 2))
    image = torch.rand(1, 2, 2, 3)
    first, joined = graph(image, (0, 2))
    assert torch.equal(first[:, ::2, 1::2], image)
    assert torch.equal(joined, torch.cat([first, first], dim=-1))
    assert graph.dims == [3, 3, 6]


def test_a_cell_in_two_things_learns_the_one_it_overlaps_more() -> None:
    boxes = torch.tensor([[0.0, 0.0, 9.0, 10.0], [0.0, 0.0, 5.0, 5.0], [20.0, 20.0, 30.0, 30.0]])
    things = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 5.0, 6.0]])
    centres = torch.tensor([[4.0, 4.0], [4.0, 3.0], [25.0, 25.0]])
    wanted, found = task_aligned(torch.full((3, 3), 0.5), boxes, centres, things, torch.tensor([1, 2]))
    assert torch.equal(found[:2], things)
    torch.testing.assert_close(wanted, torch.tensor([[0.0, 0.9, 0.0], [0.0, 0.0, 25 / 30], [0.0, 0.0, 0.0]]))
