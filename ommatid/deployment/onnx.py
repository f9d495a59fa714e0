"""ONNX files, and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import ExportedProgram

from ommatid.deployment.onnx_operators import translations
from ommatid.deployment.runtime import Run, as_answer, imported


def write_onnx(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    """Input `image`, and the named outputs.

    Raises:
        ValueError: the packages of the extra `export` are missing.
    """
    for package in ("onnx", "onnxscript"):
        imported(package)
    torch.onnx.export(
        program,
        f=path,
        dynamo=True,
        input_names=["image"],
        output_names=list(outputs),
        external_data=False,
        verbose=False,
        custom_translation_table=translations(),
    )


def open_onnx(path: Path) -> Run:
    """Runs it by ONNX Runtime on the CPU. Raises ValueError where that is not installed."""
    return run_onnx(str(path))


def run_onnx(model: str | bytes) -> Run:
    """Runs a model, or the file of that name, by ONNX Runtime on the CPU. Raises ValueError where it is missing."""
    runtime = imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda image: as_answer(session.run(None, {name: image.contiguous().numpy()}))


def without_transposes(path: Path) -> None:
    """Rewrites an ONNX file so that transposes that undo each other are gone, by ONNX Runtime's own optimiser.

    It moves them through what lies between, which OpenVINO does not. Raises ValueError where it is not installed.
    """
    runtime = imported("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # standard operators alone
    options.optimized_model_filepath = str(path)
    runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
