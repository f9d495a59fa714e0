"""bench --suite: races that continue where they were cut off, and what their tables say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ommatid.deployment import race_ways as races
from ommatid.deployment.forms import Form, forms_of
from ommatid.workflows import bench_suite as module
from ommatid.workflows.bench_suite import bench_suite

pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, by the ways that compile nothing."""

    def few(*args: Any) -> dict[str, Form]:
        forms = forms_of(*args)
        return {name: forms[name] for name in ("eager", "channels-last")} | {"broken": broken}

    def broken() -> None:
        raise RuntimeError("no such runtime\nand a page about it")

    monkeypatch.setattr(races, "forms_of", few)
    monkeypatch.setattr(races, "own_forms", lambda *args: {})
    monkeypatch.setattr(races, "PRODUCT", 64)
    monkeypatch.setattr(races, "reduced_precisions", lambda device: ())
    monkeypatch.setattr(module, "_in_own_process", module._raced)


def test_what_is_shared_is_raced_with_equal_weights(tmp_path: Path) -> None:
    page = bench_suite(tmp_path, models=["shvit_s1"], batches=[1], threads=[1], rounds=3, seconds=0.1, command="again")
    (row,) = json.loads((tmp_path / "suite.json").read_text())["rows"]
    faced = row["precisions"]["float32"]
    for who in ("ours", "timm"):
        assert set(faced["ways"][who]) == {"eager", "channels-last", "broken"}
        assert faced["ways"][who]["eager"]["error"] < 1e-3
        assert faced["ways"][who]["broken"]["problem"] == "RuntimeError: no such runtime"
        times = {name: way["latency_ms"] for name, way in faced["ways"][who].items() if way["latency_ms"]}
        assert faced["best"][who] == min(times, key=times.__getitem__)
    assert faced["share"] > 0
    assert row["eager"][1] <= row["eager"][0] <= row["eager"][2]
    table = (tmp_path / "suite.md").read_text()
    assert "shvit_s1" in table
    assert "Made by `again`" in table
    assert "no such runtime" in page.read_text()


def test_a_precision_in_which_every_way_answers_otherwise_has_no_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forms(model: nn.Module, example: Tensor) -> dict[str, Form]:
        return {"eager": lambda: model, "bfloat16": lambda: nn.Sequential(model, nn.Tanh())}

    monkeypatch.setattr(races, "forms_of", forms)
    monkeypatch.setattr(races, "reduced_precisions", lambda device: (torch.bfloat16,))
    bench_suite(tmp_path, models=["shvit_s1"], batches=[1], threads=[1], rounds=1)
    (row,) = json.loads((tmp_path / "suite.json").read_text())["rows"]
    faced = row["precisions"]["bfloat16"]
    assert faced["best"] == {}
    assert faced["ratio"] is None
    assert row["precisions"]["float32"]["best"] == {"ours": "eager", "timm": "eager"}
    assert "its answers differ by" in (tmp_path / "suite.md").read_text()


def test_it_continues_and_keeps_within_its_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ValueError("cannot be raced")

    monkeypatch.setattr(module, "race_ways", refuse)
    bench_suite(tmp_path, models=["shvit_s1", "vit_tiny"], batches=[1], threads=[1], hours=0.0)
    assert json.loads((tmp_path / "suite.json").read_text())["rows"] == []
    bench_suite(tmp_path, models=["shvit_s1"], batches=[1], threads=[1])
    assert "cannot be raced" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(module, "race_ways", lambda *args, **kwargs: pytest.fail("it was measured before"))
    bench_suite(tmp_path, models=["shvit_s1"], batches=[1], threads=[1])


def test_impossible_wishes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'swin_tiny'"):
        bench_suite(tmp_path, models=["swin_tny"])
    with pytest.raises(ValueError, match="allowed is wall or processor"):
        bench_suite(tmp_path, models=["vit_tiny"], clock="sundial")
