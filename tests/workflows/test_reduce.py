"""reduce: settings judged, measured and written, and refused where they are impossible."""

from __future__ import annotations

from pathlib import Path

import pytest

from ommatid.workflows.bench import bench
from ommatid.workflows.evaluate import evaluate
from ommatid.workflows.reduce import reduce
from ommatid.workflows.reduce_classifier import METHODS
from ommatid.workflows.train import train


@pytest.fixture(scope="module")
def run(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reduce") / "run"
    shape = {"patch_size": 4, "dim": 24, "heads": 3, "depth": 3}
    train(few_digits, model="vit", set=shape, size=16, recipe="quick", epochs=1, out=out, progress=False)
    return out


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_a_page_and_weights_that_open(run: Path, few_digits: Path, method: str) -> None:
    setting = METHODS[method].settings[-1]
    result = reduce(run, method=method, keep=[setting], batch=16, rounds=3)
    first, reduced = result["settings"]
    assert first["setting"] == "as it was"
    assert reduced["setting"] == f"{method} {setting:g}"
    assert 0 <= reduced["accuracy"] <= 1
    assert reduced["latency_ms"] > 0
    page = Path(result["report"]).read_text()
    assert result["recommended"] in page
    assert page.count(f'alt="{method} ') == len(result["pictures"])
    assert bool(result["pictures"]) == (method in ("tome", "expedite", "ia_red2"))
    judged = evaluate(reduced["weights"], few_digits, batch=1 if method == "early_exit" else 16)
    assert judged["samples"] == 96


def test_reduced_weights_can_be_measured_and_trained_on(run: Path) -> None:
    result = reduce(run, keep=[0.5], finetune=1, rounds=3)
    (row,) = bench([result["settings"][1]["weights"]], rounds=3, seconds=1)
    assert row.error is None


def test_what_is_impossible_is_said_in_one_line(run: Path) -> None:
    for arguments in ({"method": "tomme"}, {"keep": [1.5]}, {"rounds": 0}):
        with pytest.raises(ValueError, match="allowed is"):
            reduce(run, **arguments)
