"""8-bit integers for weights and activations, calibrated on images: NNCF, for OpenVINO and ONNX Runtime.

Layers that cost too much accuracy stay in floating point.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from ommatid.deployment.integer_runtimes import IntegerRuntime
from ommatid.deployment.openvino import openvino_core
from ommatid.deployment.runtime import Run, imported

ATTENTION = ("scaled_dot_product_attention", "softmax", "_softmax")

Judge = Callable[[Run], float]
"""How good a model is that maps images (B, 3, H, W) to answers: the higher, the better."""


def quantized(
    program: ExportedProgram,
    calibration: Sequence[Tensor],
    runtime: IntegerRuntime,
    *,
    judge: Judge,
    allowed_drop: float,
) -> tuple[Any, tuple[str, ...]]:
    """A runtime's model in 8 bits, and the names of the operations that were left in floating point for accuracy.

    Args:
        program: the captured model.
        calibration: batches (B, 3, H, W) of images like those that it will see.
        runtime: whose model it is to be.
        judge: decides whether operations have to go back to floating point.
        allowed_drop: how much of the judge's number may be lost.

    Raises:
        ValueError: the runtime or NNCF is missing.
    """
    nncf = imported("nncf")
    model = runtime.in_float(program)
    integers = _in_integers(model, program, calibration, runtime)
    with _quiet():
        before = judge(runtime.run(model))
        if judge(runtime.run(integers)) >= before - allowed_drop:
            return integers, ()
        images = nncf.Dataset(calibration, runtime.fed)
        # The search wants a data set of its own; the judge brings its images.
        nothing = nncf.Dataset([None])
        careful = nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=images,
            validation_dataset=nothing,
            validation_fn=lambda candidate, _: judge(runtime.run_candidate(candidate)),
            max_drop=allowed_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            **_settings(program, calibration),
        )
    return careful, tuple(sorted(runtime.quantized(integers) - runtime.quantized(careful)))


def unjudged(program: ExportedProgram, calibration: Sequence[Tensor], runtime: IntegerRuntime) -> Any:
    """A runtime's model with all operations in 8 bits that can be, whatever that costs in accuracy.

    Raises:
        ValueError: the runtime or NNCF is missing.
    """
    return _in_integers(runtime.in_float(program), program, calibration, runtime)


def _in_integers(model: Any, program: ExportedProgram, calibration: Sequence[Tensor], runtime: IntegerRuntime) -> Any:
    nncf = imported("nncf")
    openvino_core()  # before NNCF makes its own
    with _quiet():
        return nncf.quantize(model, nncf.Dataset(calibration, runtime.fed), **_settings(program, calibration))


def _settings(program: ExportedProgram, calibration: Sequence[Tensor]) -> dict[str, Any]:
    settings: dict[str, Any] = {"subset_size": len(calibration)}
    return settings | ({"model_type": imported("nncf").ModelType.TRANSFORMER} if _attends(program) else {})


def _attends(program: ExportedProgram) -> bool:
    return any(kind in str(node.target) for node in program.graph.nodes for kind in ATTENTION)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's log lines."""
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
