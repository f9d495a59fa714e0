"""Costs of compositions from those of their pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ommatid.measuring.macs import count_macs
from ommatid.measuring.part_costs import CostTable, Times
from ommatid.models.backbones.pyramid import Pyramid, PyramidConfig

CONFIG = PyramidConfig(
    image_size=32,
    num_classes=3,
    dims=(16, 32),
    depths=(2, 1),
    mixer=["window", ("attention", {"heads": 4})],
    channel_mixer=[["mlp", "conv_glu"], "mbconv"],
    norm="batch",
    position="conditional",
    layer_scale=0.1,
)


@pytest.fixture
def table(tmp_path: Path) -> CostTable:
    return CostTable(tmp_path / "table.json", threads=1)


def test_pieces_have_all_parameters_and_multiply_adds(table: CostTable) -> None:
    model = Pyramid(CONFIG).eval()
    scales = sum(parameter.numel() for name, parameter in model.named_parameters() if name.endswith("gamma"))
    assert scales > 0
    assert table.parameters(CONFIG) == sum(parameter.numel() for parameter in model.parameters())
    assert table.multiply_adds(CONFIG) == count_macs(model, torch.rand(1, 3, 32, 32))


def test_a_piece_is_measured_once(table: CostTable, monkeypatch: pytest.MonkeyPatch) -> None:
    first = table.latency_ms(CONFIG)
    table.calibrate([CONFIG])
    table.save()
    again = CostTable(table.path, threads=1)
    monkeypatch.setattr("ommatid.measuring.part_costs._timed_ms", lambda *args, **kwargs: pytest.fail("measured again"))
    assert again.latency_ms(CONFIG) == pytest.approx(first * again.scale)
    assert again.predict(CONFIG).parameters == table.parameters(CONFIG)


def test_a_piece_that_comes_again_takes_what_it_does_right_after_its_like(table: CostTable) -> None:
    table.latency_ms(CONFIG)
    table.times = dict.fromkeys(table.times, Times(1.0, 0.25))
    assert len(table.times) == 9
    assert table.latency_ms(CONFIG) == 9 + 0.25  # of the ten pieces the second window attention is like the first


def test_over_the_limit_nothing_more_is_measured(table: CostTable) -> None:
    assert table.latency_ms(CONFIG, limit=1e-6) > 1e-6
    assert len(table.times) == 1
