"""doctor: findings must be true of this machine, and advice given only where something is amiss."""

import tomllib
from pathlib import Path

import pytest
import torch

from ommatid.workflows.doctor import EXTRAS, doctor, find_compiler, writable


def test_advice_goes_with_what_is_amiss() -> None:
    findings = doctor()
    assert all((finding.advice is None) == finding.ok for finding in findings)
    assert len({finding.topic for finding in findings}) == len(findings)
    by_topic = {finding.topic: finding for finding in findings}
    assert by_topic["torch"].found == torch.__version__
    assert by_topic["GPU"].ok == (torch.cuda.is_available() or torch.backends.mps.is_available())


def test_a_compiler_that_is_not_there_is_found_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert find_compiler() is None
    assert not next(finding for finding in doctor() if finding.topic == "compile").ok


def test_a_folder_below_a_file_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert writable(tmp_path / "not" / "there" / "yet")
    assert not writable(tmp_path / "file" / "below")


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = project["optional-dependencies"]
    assert {extra: set(packages) for extra, packages in EXTRAS.items()} == {
        extra: set(packages) for extra, packages in declared.items() if extra != "dev"
    }
