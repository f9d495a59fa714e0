"""8-bit integers as the last step of a compression: what they cost is measured where they run, in OpenVINO.

A model in 8 bits and one in PyTorch are two runtimes as well as two models. So all times here are OpenVINO's: those of
the models in 8 bits against those of the original in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.deployment.capture import capture
from ommatid.deployment.integer_runtimes import INTEGER_RUNTIMES
from ommatid.deployment.openvino import compiled_openvino
from ommatid.deployment.quantize import unjudged
from ommatid.deployment.runtime import Run
from ommatid.measuring.timing import Clock, alternate, quartiles
from ommatid.workflows.quantize import quantize

OPENVINO = INTEGER_RUNTIMES["openvino"]

ROUNDS, SECONDS = 100, 2.0
"""Timed calls of the original and of the model in 8 bits in turn, at most, and none begun after so long."""

TIMED = "OpenVINO: 8 bits against the original in float32, there too"
"""How, in words for the page."""


@dataclass(frozen=True)
class Integers:
    """How fast and large models are in 8 bits, against one original in float32.

    image: (B, 3, H, W), what is timed. calibration: batches of images.
    """

    original: nn.Module
    image: Tensor
    calibration: Sequence[Tensor]
    clock: Clock

    @cached_property
    def _float(self) -> Run:
        return OPENVINO.run(OPENVINO.in_float(self._captured(self.original)))

    def original_ms(self) -> float:
        """Milliseconds of the original, in float32."""
        return 1e3 * quartiles([time for time, _ in self._times(self._float)]).median

    def latency(self, model: nn.Module) -> float:
        """Time in 8 bits, as a fraction of the original's in float32."""
        return self.measured(OPENVINO.run(unjudged(self._captured(model), self.calibration[:1], OPENVINO)))[1]

    def size(self, model: nn.Module) -> float:
        """Bytes of the weights, matrices and filters in 8 bits, as a fraction of the original's in float32."""
        whole = sum(value.nbytes for value in self.original.parameters())
        return sum(value.numel() if value.dim() > 1 else value.nbytes for value in model.parameters()) / whole

    def measured(self, run: Run) -> tuple[float, float]:
        """Milliseconds, and the fraction of the original's."""
        times = self._times(run)
        ratio = quartiles([mine / theirs for mine, theirs in times]).median
        return 1e3 * quartiles([mine for mine, _ in times]).median, ratio

    def _captured(self, model: nn.Module) -> torch.export.ExportedProgram:
        # Not of one image, which would be taken for a constant.
        return capture(model.eval(), self.image[:1].repeat(2, 1, 1, 1))

    def _times(self, run: Run) -> list[tuple[float, ...]]:
        return alternate(
            [lambda: run(self.image), lambda: self._float(self.image)],
            torch.device("cpu"),
            rounds=ROUNDS,
            seconds=SECONDS,
            clock=self.clock,
        )


def integers_row(integers: Integers, weights: Path, data: str | None, *, allowed: float) -> dict[str, Any]:
    """Writes trained weights in 8 bits, beside them, and gives what a setting's row says of that.

    allowed: accuracy that this step may lose; where it loses more, operations go back to float32.
    """
    done = quantize(weights, data, tolerance=f"{100 * allowed:.4f} points")
    latency, ratio = integers.measured(compiled_openvino(done.path, "f32"))
    return {
        "accuracy": done.after.accuracy,
        "accuracy_float": done.before.accuracy,
        "latency_ms": latency,
        "latency_ratio": ratio,
        "size_mb": done.after.size_mb,
        "memory_mb": None,
        "in_float": len(done.in_float),
        "file": str(done.path),
    }
