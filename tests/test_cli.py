"""The command line: what it prints, its exit codes, and one line for everything that can be wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from workflows.small import REPOSITORY, TINY, TINY_WORD, environment, make_run, photographs, save_weights

import ommatid
from ommatid.cli import main
from ommatid.cli.options import parse_seeds, parse_settings
from ommatid.models import create_model, save
from ommatid.runs.trained import RestorerFacts

CASES = REPOSITORY / "tests" / "parity" / "cases"
VERBS = (
    *("models", "parts", "systems", "doctor", "verify", "train", "evaluate", "experts", "predict", "restore", "reduce"),
    *("compress", "export", "quantize", "bench", "compare", "explore", "serve"),
)
TINY_SETTINGS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


def run(*words: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "ommatid", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def call(*words: object) -> int:
    """The command in this process: its exit code."""
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in words])
    return int(exit.value.code or 0)


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command prints that cannot be obeyed."""
    code = call(*words)
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err + printed.out
    return printed.err


@pytest.fixture
def restorer(tmp_path: Path) -> Path:
    """A tiny network that enlarges twice, as a training would have saved it."""
    model = create_model("hat", dim=12, depths=[1], heads=[2], window_size=8, compress_ratio=3, squeeze_factor=3)
    path = tmp_path / "restorer.safetensors"
    save(model, path, extra=RestorerFacts("hat", "bicubic x2", 48).to_header())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photographs")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "tiny.safetensors", ("cat", "ship", "truck"))


def test_help_lists_the_verbs_without_importing_torch() -> None:
    watched = "import sys; sys.argv = ['ommatid', '--help']\nimport atexit\n"
    watched += "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    watched += "from ommatid.cli import main; main()"
    shown = subprocess.run(
        [sys.executable, "-c", watched], env=environment(), capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0
    assert all(verb in shown.stdout for verb in VERBS)
    assert shown.stderr.strip() == "False"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(verb, "--help") == 0
    assert f"ommatid {verb}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"ommatid {ommatid.__version__}\n"


def test_models_and_systems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("models", "swin_t*", "--json", tmp_path / "models.json") == 0
    assert "swin_tiny" in capsys.readouterr().out
    assert json.loads((tmp_path / "models.json").read_text())[0]["variant"] == "swin_tiny"
    assert call("systems", "shifted windows", "--json", tmp_path / "systems.json") == 0
    assert "swin" in capsys.readouterr().out
    assert "swin" in (tmp_path / "systems.json").read_text()


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor") == 0
    assert "torch" in capsys.readouterr().out


def test_verify_passes_and_says_what_was_checked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("verify", "pvt_v2", "--cases", CASES, "--json", tmp_path / "verified.json") == 0
    printed = capsys.readouterr().out
    assert "7 of 7 published parameter counts are exact" in printed
    assert "9 of 9 checks passed" in printed
    assert (tmp_path / "verified.json").is_file()


def test_verify_exits_1_on_a_miss(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cases = tmp_path / "cases"
    (cases / "pvt_v2").mkdir(parents=True)
    for file in (CASES / "pvt_v2").iterdir():
        content = file.read_bytes()
        if file.name == "cases.json":
            content = content.replace(b'"rtol": ', b'"rtol": 1e-12, "loose": ')
        (cases / "pvt_v2" / file.name).write_bytes(content)
    assert call("verify", "--cases", cases) == 1
    assert "7 of 9 checks passed" in capsys.readouterr().out


def test_train_evaluate_predict(data: Path, tmp_path: Path) -> None:
    trained = run(
        *("train", data, "--model", "pvt_v2", *TINY_SETTINGS, "--recipe", "quick", "--epochs", 1, "--batch", 6),
        *("--out", tmp_path / "run"),
    )
    assert trained.returncode == 0, trained.stderr
    assert str(tmp_path / "run") in trained.stdout
    judged = run("evaluate", tmp_path / "run")
    assert judged.returncode == 0, judged.stderr
    assert "accuracy" in judged.stdout
    assert (tmp_path / "run" / "evaluation-photographs" / "report.html").is_file()
    (data / "val" / "cat" / "words.jpg").write_text("no image")
    named = run("predict", tmp_path / "run", data / "val", "--top", 2, "--csv", tmp_path / "answers.csv")
    assert named.returncode == 0, named.stderr
    assert len(named.stdout.splitlines()) == 12
    assert "words.jpg" in named.stderr
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 13


def test_restore(restorer: Path, tmp_path: Path) -> None:
    for name in ("a.png", "deep/b.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), "red").save(tmp_path / "in" / name)
    (tmp_path / "in" / "words.jpg").write_text("no picture")
    words = ("restore", restorer, tmp_path / "in", "--out", tmp_path / "out", "--tile", 32)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'out' / 'a.png'}: 20 x 30 -> 40 x 60" in done.stdout
    assert "words.jpg: not an image" in done.stderr
    assert "skipped 1 of 3 files" in done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    again = run(*words, "--no-page")
    assert again.stdout == "2 were restored before\n"
    assert Image.open(tmp_path / "out" / "deep" / "b.jpg").size == (40, 60)


def test_bad_words_for_restore(
    capsys: pytest.CaptureFixture[str], restorer: Path, weights: Path, data: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (20, 30)).save(picture)
    (tmp_path / "words.jpg").write_text("no picture")
    (tmp_path / "file").write_text("no folder")
    assert "--tile" in failure(capsys, "restore", restorer, picture, "--tile", "many")
    assert "tile = 8 is not possible" in failure(capsys, "restore", restorer, picture, "--tile", 8)
    assert "device" in failure(capsys, "restore", restorer, picture, "--device", "toaster")
    assert "IMAGE" in failure(capsys, "restore", restorer)
    assert "none of the 1 files can be read" in failure(capsys, "restore", restorer, tmp_path / "words.jpg")
    assert "would be overwritten" in failure(capsys, "restore", restorer, picture, "--out", tmp_path)
    assert "file" in failure(capsys, "restore", restorer, picture, "--out", tmp_path / "file")
    assert "no run folder" in failure(capsys, "restore", tmp_path / "nowhere", picture)
    assert "classes" in failure(capsys, "restore", weights, picture)


def test_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("bench", "pvt_v2_b0", "pvt_v2_b9", "--size", 32, "--json", tmp_path / "bench.json") == 0
    printed = capsys.readouterr()
    assert "pvt_v2_b0" in printed.out
    assert printed.err.startswith("pvt_v2_b9: no model is called")
    assert (tmp_path / "bench.json").is_file()


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "frobnicate" in failure(capsys, "frobnicate")
    assert "--frobnicate" in failure(capsys, "train", "digits", "--frobnicate")
    assert "--epochs" in failure(capsys, "train", "digits", "--epochs", "many")
    assert "--models" in failure(capsys, "compare", "digits")
    assert "IMAGE" in failure(capsys, "predict", "run")


def test_bad_words_for_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no folder" in failure(capsys, "verify", "--cases", tmp_path / "nowhere")
    assert "holds no cases" in failure(capsys, "verify", "--cases", tmp_path)
    assert "did you mean 'swin'" in failure(capsys, "verify", "swim", "--cases", CASES)


def test_without_a_checkout_verify_asks_for_cases(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ommatid.cli.verify.CHECKOUT_CASES", tmp_path / "nowhere")
    assert "--cases" in failure(capsys, "verify")


def test_bad_words_for_models_systems_and_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert "area" in failure(capsys, "systems", "swin", "--area", "backbonez")
    assert "did you mean 'swin_tiny'" in failure(capsys, "bench", "swin_tinny")
    assert "timm" in failure(capsys, "bench", "swin_tiny", "--against", "tim")
    assert "precision" in failure(capsys, "bench", "swin_tiny", "--precision", "float7")
    assert "device" in failure(capsys, "bench", "swin_tiny", "--device", "toaster")
    assert "size = 0 is not possible" in failure(capsys, "bench", "swin_tiny", "--size", "0")


def test_a_json_that_cannot_be_written_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, weights: Path
) -> None:
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    verbs = (["models"], ["systems"], ["verify", "--cases", CASES], ["bench", "swin_tiny"])
    for verb in (*verbs, ["predict", weights, tmp_path / "a.png"]):
        assert "is a folder: name a file" in failure(capsys, *verb, "--json", tmp_path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model", "swin_tinny"], "did you mean 'swin_tiny'"),
        (["--recipe", "quik"], "did you mean 'quick'"),
        (["--epochs", "0"], "epochs = 0 is not possible"),
        (["--batch", "100000"], "batch = 100000 is not possible"),
        (["--lr", "-1"], "lr = -1.0 is not possible"),
        (["--size", "0"], "size = 0 is not possible"),
        (["--seed", "4294967296"], "seed = 4294967296 is not possible"),
        (["--precision", "float7"], "precision = 'float7' is not possible"),
        (["--devices", "999"], "999"),
        (["--strategy", "hope"], "strategy = 'hope' is not possible"),
        (["--set", "depths"], "is not NAME=VALUE"),
        (["--set", "depths=[1"], "is not a YAML value"),
        (["--set", "dephts=[1]"], "did you mean 'depths'"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--resume", "nowhere"], "leave out data"),
    ],
)
def test_bad_words_for_train(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    message = failure(capsys, "train", data, "--out", tmp_path / "run", *words)
    assert told in message
    assert not (tmp_path / "run").exists()


def test_bad_data(capsys: pytest.CaptureFixture[str], tmp_path: Path, weights: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    for name in ("a", "b"):
        (tmp_path / "words" / name).mkdir()
        (tmp_path / "words" / name / "words.jpg").write_text("no image")
    (tmp_path / "file.txt").write_text("neither folder nor CSV")
    for verb in (["train"], ["compare", "--models", "pvt_v2_b0"], ["evaluate", weights]):
        assert "does not exist" in failure(capsys, *verb, tmp_path / "nowhere")
        assert "neither a folder nor a .csv" in failure(capsys, *verb, tmp_path / "file.txt")
        assert "empty" in failure(capsys, *verb, tmp_path / "empty")
        assert "can be read" in failure(capsys, *verb, tmp_path / "words")
    assert "can be read" in failure(capsys, "predict", weights, tmp_path / "words")
    assert "holds no image" in failure(capsys, "predict", weights, tmp_path / "empty")


def test_bad_runs_and_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path, weights: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "corrupt.safetensors").write_bytes(weights.read_bytes()[:500])
    run = make_run(tmp_path / "run", data)
    (run.path / "best.safetensors").unlink()
    for verb in ("evaluate", "predict"):
        assert "no run folder" in failure(capsys, verb, tmp_path / "nowhere", data)
        assert "is not a run" in failure(capsys, verb, tmp_path / "empty", data)
        assert "not a safetensors file" in failure(capsys, verb, tmp_path / "corrupt.safetensors", data)
        assert "has no best.safetensors yet" in failure(capsys, verb, run.path, data)
    assert "is not a run" in failure(capsys, "train", "--resume", tmp_path / "empty")
    assert "config.yaml" in failure(capsys, "train", "--config", tmp_path / "config.yaml")


def test_a_part_is_no_classifier(capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path) -> None:
    told = "ulsam_4 is a part, not an image classifier"
    assert told in failure(capsys, "train", data, "--model", "ulsam_4", "--out", tmp_path / "run")
    assert told in failure(capsys, "compare", data, "--models", "ulsam_4", "--out", tmp_path / "out")
    assert told in failure(capsys, "bench", "ulsam_4")
    module = ["--model", "moh", "--set", "part=module", "--set", "heads=8"]
    assert "moh is the module part of moh, not an image classifier" in failure(
        capsys, "train", data, *module, "--out", tmp_path / "run"
    )
    saved = tmp_path / "part.safetensors"
    save(create_model("ulsam_4"), saved)
    assert "ulsam is a part" in failure(capsys, "train", data, "--weights", saved, "--out", tmp_path / "run")
    assert "ulsam is a part" in failure(capsys, "evaluate", saved, data)
    assert "ulsam is a part" in failure(capsys, "predict", saved, data)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.cpu_count() == 1, reason="needs two processors")
def test_two_processes_say_the_result_once(data: Path, tmp_path: Path) -> None:
    words = [*("--recipe", "quick", "--epochs", 1, "--batch", 6, "--devices", 2), *("--out", tmp_path / "run")]
    trained = run("train", data, "--model", "pvt_v2", *TINY_SETTINGS, *words)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("best validation accuracy") == 1


def test_bad_words_for_compare(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    def failed(*words: str) -> str:
        return failure(capsys, "compare", data, "--out", tmp_path / "out", *words)

    assert "no model is named" in failed("--models", ",")
    assert "did you mean 'swin_tiny'" in failed("--models", "swin_tinny")
    assert "seeds" in failed("--models", TINY_WORD, "--seeds", "some")
    assert "epochs = 0" in failed("--models", TINY_WORD, "--epochs", "0")
    assert not (tmp_path / "out").exists()


def test_a_fault_of_our_own_shows_no_stack_trace_unless_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("deep\nin a library")

    monkeypatch.setattr("ommatid.workflows.doctor.doctor", broken)
    monkeypatch.delenv("OMMATID_DEBUG", raising=False)
    assert call("doctor") == 70
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "KeyError" in error
    assert "--debug" in error
    monkeypatch.setenv("OMMATID_DEBUG", "")  # put back by monkeypatch whatever --debug makes of it
    with pytest.raises(KeyError):
        main(["doctor", "--debug"])


def test_a_file_error_names_the_file(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = failure(capsys, "compare", data, "--models", TINY_WORD, "--batch", 6, "--out", tmp_path / "file")
    assert str(tmp_path / "file") in error


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    words = ["compare", str(data), "--models", TINY_WORD, "--batch", "6", "--epochs", "500", "--out", "out"]
    command = [sys.executable, "-m", "ommatid", *words]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "epoch 2/" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        last = process.stderr.read().splitlines()[-1]
    assert process.returncode == 130
    assert last == "interrupted: the same command continues where this one stopped"


def test_settings_are_yaml() -> None:
    assert parse_settings(["dims=[8, 16]", "linear=true", "act=gelu", "url=a=b"]) == {
        "dims": [8, 16],
        "linear": True,
        "act": "gelu",
        "url": "a=b",
    }
    assert parse_settings(None) == {}


def test_seeds_are_a_number_or_a_list() -> None:
    assert parse_seeds("3") == 3
    assert parse_seeds("4,7") == [4, 7]
    assert parse_seeds("7,") == [7]
