"""A trained model is made smaller, fine-tuned and measured, and what comes out is a run like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

import ommatid
from ommatid.methods.pruning.registry import METHODS, nonzero
from ommatid.runs.trained import open_trained
from ommatid.workflows.compress import compress
from ommatid.workflows.compress_target import parse_target


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = {"image_size": 32, "patch_size": 8, "dim": 32, "depth": 2, "heads": 4}
    out = tmp_path_factory.mktemp("compress") / "run"
    ommatid.train("digits", model="vit", set=fields, recipe="quick", epochs=1, batch=128, out=out, progress=False)
    return out


def test_units_go_until_the_target_is_met_and_the_run_is_one_like_any_other(run: Path, tmp_path: Path) -> None:
    arguments = {"methods": ["nvit"], "target": "macs<0.6x", "tolerance": "100 points", "epochs": 1}
    done = compress(run, **arguments, settings=[0.6], out=tmp_path / "c", progress=False)
    original, smaller = done.rows
    assert smaller["macs"] <= 0.6 * original["macs"]
    assert smaller["parameters"] < original["parameters"]
    assert smaller["size_mb"] < original["size_mb"]
    assert smaller["error"] < 1e-4
    assert done.run == tmp_path / "c" / "0.6x"
    assert ommatid.evaluate(done.run, out=tmp_path / "e")["accuracy"] == pytest.approx(smaller["accuracy"])
    assert ommatid.export(done.run, format="torch", out=tmp_path / "smaller.pt2").error < 1e-3
    assert "heads" in done.report.read_text()
    before = (done.run / "best.safetensors").stat().st_mtime_ns
    again = compress(run, **arguments, settings=[0.6], out=tmp_path / "c", progress=False)
    assert again.rows == done.rows
    assert (done.run / "best.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="was started with methods"):
        compress(run, **{**arguments, "methods": ["units"]}, out=tmp_path / "c", progress=False)


def test_units_and_weights_go_together_and_zeros_survive_fine_tuning(run: Path, tmp_path: Path) -> None:
    done = compress(
        run,
        methods=["units", "dimap"],
        target="parameters<0.5x",
        settings=[0.5],
        epochs=1,
        out=tmp_path / "c",
        progress=False,
    )
    original, smaller = done.rows
    assert smaller["parameters"] <= 0.5 * original["parameters"]
    assert {row["kind"] for row in smaller["removed"]} >= {"heads", "hidden", "weights"}
    tuned = open_trained(Path(smaller["run"]))
    assert nonzero(tuned.model) == smaller["parameters"]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("nvit", "units", "dimap", "int8")])
def test_every_method_reaches_its_sparsity(run: Path, method: str) -> None:
    import torch

    from ommatid.methods.pruning.registry import Task
    from ommatid.methods.pruning.unstructured import block_layers

    torch.manual_seed(0)
    model = open_trained(run).model
    batches = [(torch.rand(4, 3, 32, 32), torch.randint(10, (4,))) for _ in range(2)]
    task = Task(batches, lambda other: 0.0, lambda other: 0.0)
    reduced = METHODS[method].prepare(model, task)(0.6)
    share = nonzero(reduced.model) / nonzero(model)
    # SparseGPT keeps one weight less in every block of columns, ECoFLaP a few more in every block.
    assert share == pytest.approx(0.6, abs=0.02) or method == "2:4"
    layers = block_layers(reduced.model)
    assert set(reduced.model.sparse) == {f"{name}.weight" for name in layers}
    if method == "2:4":
        assert all((layer.weight.reshape(-1, 4).ne(0).sum(1) <= 2).all() for layer in layers.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["nvitt"]}, "no method is called 'nvitt' .did you mean 'nvit'"),
        ({"methods": []}, "methods = .* allowed is"),
        ({"target": "speed<0.5x"}, "allowed is COST<FACTORx"),
        ({"target": "latency<1.5x"}, "allowed is COST<FACTORx"),
        ({"tolerance": "a little"}, "allowed is points of accuracy"),
        ({"methods": ["dimap"]}, "dimap lower no latency"),
        ({"methods": ["nvit", "int8"], "target": "memory<0.5x"}, "memory is not measured"),
        ({"settings": [1.0]}, "settings = 1.0"),
        ({"epochs": 0}, "epochs = 0"),
    ],
)
def test_what_is_impossible_is_said_in_one_line(run: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        compress(run, **changes, out=tmp_path / "c", progress=False)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "c").exists()


def test_targets_are_read_as_people_write_them() -> None:
    assert str(parse_target(" latency <= 0.5x ")) == "latency<0.5x"


def test_int8_comes_last_and_its_file_is_judged_and_timed_against_float_in_the_same_runtime(
    run: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    done = compress(run, methods=["nvit", "int8"], target="size<0.15x", tolerance="100 points", settings=[0.15],
                    epochs=1, out=tmp_path / "c", progress=False)  # fmt: skip
    original, smaller = done.rows
    assert smaller["parameters"] < 0.8 * original["parameters"]  # 8 bits alone are a quarter
    assert original["latency_ratio"] == 1
    assert smaller["latency_ratio"] > 0
    assert done.file == done.run / "best.int8.xml"
    assert ommatid.evaluate(done.file, out=tmp_path / "e")["accuracy"] == pytest.approx(smaller["accuracy"])
    assert "OpenVINO" in done.report.read_text()
    assert "distill[teacher=" in (done.run / "config.yaml").read_text()


def test_int8_alone_leaves_the_run_as_it_is(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed")
    done = compress(run, methods=["int8"], target="size<0.5x", tolerance="100 points", out=tmp_path / "c",
                    progress=False)  # fmt: skip
    (_, row) = done.rows
    assert done.run == run
    assert row["removed"] == []
