"""Models that OpenVINO runs, and what they leave behind in the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino", reason="openvino is not installed")

FREED_OUT_OF_TURN = """
import signal, torch
from ommatid.deployment.openvino import compiled_openvino, converted_openvino

heard = []
signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
program = torch.export.export(torch.nn.Linear(4, 4).eval(), (torch.rand(1, 4),))
model = converted_openvino(program)
first = compiled_openvino(model, "f32")
second = compiled_openvino(model, "f32")
del first
del second
signal.raise_signal(signal.SIGTERM)
print(*heard)
"""


def test_a_signal_is_still_heard_after_models_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", FREED_OUT_OF_TURN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "SIGTERM\n"), done.stderr
