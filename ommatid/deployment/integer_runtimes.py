"""Runtimes that compute in 8-bit integers, as the quantiser meets them: their models, how those are run and kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ommatid.deployment.onnx import run_onnx, write_onnx
from ommatid.deployment.openvino import compiled_openvino, converted_openvino
from ommatid.deployment.runtime import Run, imported


@dataclass(frozen=True)
class IntegerRuntime:
    """One of them, and what can be done with its models.

    suffix: of its files. in_float: a program as its model. run: runs one. run_candidate: runs what the quantiser's
    search puts forward. save: writes one. fed: a batch of images, as the quantiser feeds it. quantized: names of the
    operations in 8 bits. All raise ValueError where a package is missing.
    """

    suffix: str
    in_float: Callable[[ExportedProgram], Any]
    run: Callable[[Any], Run]
    run_candidate: Callable[[Any], Run]
    save: Callable[[Any, Path], None]
    fed: Callable[[Tensor], Any]
    quantized: Callable[[Any], set[str]]


def _openvino_in_float(program: ExportedProgram) -> Any:
    model = converted_openvino(program)
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"answer"})
    return model


def _run_openvino(model: Any) -> Run:
    return compiled_openvino(model, "f32")


def _run_compiled(candidate: Any) -> Run:
    return lambda batch: torch.from_numpy(candidate([batch.numpy()])[0])


def _save_openvino(model: Any, path: Path) -> None:
    imported("openvino").save_model(model, path, compress_to_fp16=False)


def _quantized_in_openvino(model: Any) -> set[str]:
    return {
        operation.get_friendly_name()
        for operation in model.get_ordered_ops()
        if any(source.get_node().get_type_name() == "FakeQuantize" for source in operation.input_values())
    }


def _onnx_in_float(program: ExportedProgram) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(program, path, ["answer"])
        return imported("onnx").load(path)


def _run_onnx(model: Any) -> Run:
    return run_onnx(model.SerializeToString())


def _save_onnx(model: Any, path: Path) -> None:
    imported("onnx").save(model, path)


def _quantized_in_onnx(model: Any) -> set[str]:
    integers = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    return {node.name for node in model.graph.node if integers & set(node.input)}


INTEGER_RUNTIMES = {
    "openvino": IntegerRuntime(
        ".int8.xml",
        _openvino_in_float,
        _run_openvino,
        _run_compiled,
        _save_openvino,
        lambda batch: batch.numpy(),
        _quantized_in_openvino,
    ),
    "onnx": IntegerRuntime(
        ".int8.onnx",
        _onnx_in_float,
        _run_onnx,
        _run_onnx,
        _save_onnx,
        lambda batch: {"image": batch.numpy()},
        _quantized_in_onnx,
    ),
}
"""By the name of their format, as `ommatid export` has it."""
