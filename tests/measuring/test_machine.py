"""The facts about the machine must be what the page and JSON can take, and true."""

import json
import os
import platform

import pytest
import torch

from ommatid.measuring import machine
from ommatid.measuring.machine import describe_machine, instruction_sets


def test_facts_are_flat_and_name_what_matters() -> None:
    facts = describe_machine()
    assert {"processor", "cores", "threads", "system", "python", "torch", "torchvision"} <= set(facts)
    assert all(isinstance(value, str | int | float) and value != "" for value in facts.values())
    assert json.loads(json.dumps(facts)) == facts
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")
def test_cores_are_those_of_this_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert describe_machine()["cores"] == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse avx avx2", ["avx2"]),
        ("avx2 avx512f avx512_vnni avx512_bf16", ["avx2", "avx512", "vnni", "bf16"]),
        ("avx2 avx512f amx_tile amx_bf16", ["avx2", "avx512", "bf16", "amx"]),
        ("", []),
    ],
)
def test_instruction_sets_come_from_the_flags(monkeypatch: pytest.MonkeyPatch, flags: str, expected: list[str]) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: {"flags": flags})
    monkeypatch.setattr("sys.platform", "linux")
    assert instruction_sets() == expected
