"""8-bit integers for weights and activations, calibrated on images: OpenVINO's own quantiser, NNCF.

Layers that cost too much accuracy stay in floating point.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ommatid.deployment.openvino import compiled_openvino, converted_openvino, openvino_core
from ommatid.deployment.runtime import Run, imported

ATTENTION = ("scaled_dot_product_attention", "softmax", "_softmax")

Judge = Callable[[Run], float]
"""How good a model is that maps images (B, 3, H, W) to answers: the higher, the better."""


def quantized(
    program: ExportedProgram, calibration: Sequence[Tensor], *, judge: Judge, allowed_drop: float
) -> tuple[Any, tuple[str, ...]]:
    """An OpenVINO model in 8 bits, and the names of the operations that were left in floating point for accuracy.

    Args:
        program: the captured model.
        calibration: batches (B, 3, H, W) of images like those that it will see.
        judge: decides whether operations have to go back to floating point.
        allowed_drop: how much of the judge's number may be lost.

    Raises:
        ValueError: OpenVINO or NNCF is missing.
    """
    nncf = imported("nncf")
    model = in_float(program)
    integers = _in_integers(model, program, calibration)
    with _quiet():
        before = judge(run_openvino(model))
        if judge(run_openvino(integers)) >= before - allowed_drop:
            return integers, ()
        images = _data_set(calibration)
        # The search wants a data set of its own; the judge brings its images.
        nothing = nncf.Dataset([None])

        def validate(candidate: Any, _: Any) -> float:
            return judge(lambda batch: torch.from_numpy(candidate([batch.numpy()])[0]))

        careful = nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=images,
            validation_dataset=nothing,
            validation_fn=validate,
            max_drop=allowed_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            **_settings(program, calibration),
        )
    return careful, tuple(sorted(_quantized_layers(integers) - _quantized_layers(careful)))


def in_float(program: ExportedProgram) -> Any:
    """The OpenVINO model of a captured one, as it is. Raises ValueError where OpenVINO is missing."""
    model = converted_openvino(program)
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"answer"})
    return model


def unjudged(program: ExportedProgram, calibration: Sequence[Tensor]) -> Any:
    """The OpenVINO model with all operations in 8 bits that can be, whatever that costs in accuracy.

    Raises:
        ValueError: OpenVINO or NNCF is missing.
    """
    return _in_integers(in_float(program), program, calibration)


def _in_integers(model: Any, program: ExportedProgram, calibration: Sequence[Tensor]) -> Any:
    openvino_core()  # before NNCF makes its own
    with _quiet():
        return imported("nncf").quantize(model, _data_set(calibration), **_settings(program, calibration))


def _settings(program: ExportedProgram, calibration: Sequence[Tensor]) -> dict[str, Any]:
    settings: dict[str, Any] = {"subset_size": len(calibration)}
    return settings | ({"model_type": imported("nncf").ModelType.TRANSFORMER} if _attends(program) else {})


def _data_set(calibration: Sequence[Tensor]) -> Any:
    return imported("nncf").Dataset([batch.numpy() for batch in calibration])


def run_openvino(model: Any) -> Run:
    """Runs a model by OpenVINO on the CPU; what is in floating point there, in float32."""
    return compiled_openvino(model, "f32")


def save_openvino(model: Any, path: Path) -> None:
    """Writes `path` (.xml) and the weights beside it (.bin)."""
    imported("openvino").save_model(model, path, compress_to_fp16=False)


def _attends(program: ExportedProgram) -> bool:
    return any(kind in str(node.target) for node in program.graph.nodes for kind in ATTENTION)


def _quantized_layers(model: Any) -> set[str]:
    """Names of the operations whose inputs come through quantisation."""
    return {
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if any(source.get_node().get_type_name() == "FakeQuantize" for source in operation.input_values())
    }


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
