"""OpenVINO's files and its CPU plugin."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from ommatid.deployment.flat_norms import flat_norms
from ommatid.deployment.onnx import without_transposes, write_onnx
from ommatid.deployment.runtime import Run, as_answer, imported


def write_openvino(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    """OpenVINO's own format: `path` (.xml), and the weights beside it (.bin). Raises ValueError where it is absent."""
    model = converted_openvino(program)
    model.inputs[0].get_tensor().set_names({"image"})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    save_openvino(model, path)


def save_openvino(model: Any, path: Path) -> None:
    """OpenVINO's own format: `path` (.xml), and the weights, in float32, beside it (.bin)."""
    imported("openvino").save_model(model, path, compress_to_fp16=False)


def open_openvino(path: Path) -> Run:
    """Runs it by OpenVINO on the CPU, in float32. Raises ValueError where it is not installed."""
    return compiled_openvino(path, "f32")


def converted_openvino(program: ExportedProgram) -> Any:
    """OpenVINO's form of a program, changed to what its CPU plugin runs faster: see `flat_norms`.

    Raises ValueError where OpenVINO is not installed.
    """
    return flat_norms(read_by_openvino(program))


def read_by_openvino(program: ExportedProgram) -> Any:
    """OpenVINO's form of a program, by way of ONNX where that is installed and can say it: see `without_transposes`.

    Raises ValueError where OpenVINO is not installed.
    """
    openvino = imported("openvino")
    if all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        try:
            return _by_way_of_onnx(program)
        except Exception:  # operators that ONNX has not; OpenVINO's own reader may know them
            pass
    return openvino.convert_model(program)


def _by_way_of_onnx(program: ExportedProgram) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(program, path, [f"answer{index}" for index in range(len(program.graph_signature.user_outputs))])
        without_transposes(path)
        return openvino_core().read_model(path)


@cache
def openvino_core() -> Any:
    """OpenVINO with its CPU plugin, one for the life of the process. Raises ValueError where it is not installed.

    Each plugin lends the thread that loads it a stack for signal handlers. Two that are freed out of turn leave one
    that is gone, and the next signal with a handler, Ctrl-C or the end of a child, kills the process without a word.
    """
    core = imported("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core


def compiled_openvino(model: Any, precision: str, streams: int = 1) -> Run:
    """Runs a model, or the file of one, by OpenVINO on the CPU, computing in "f32" or "bf16".

    streams: into how many equal parts the batch is split, which run side by side and share the threads.
    """
    settings = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino_core().compile_model(model, "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(streams)]

    def run(image: Tensor) -> Any:
        for request, part in zip(requests, np.split(image.contiguous().numpy(), streams), strict=True):
            request.start_async([part])
        for request in requests:
            request.wait()
        answers = zip(*([output.data for output in request.output_tensors] for request in requests), strict=True)
        return as_answer([np.concatenate(parts) if streams > 1 else parts[0].copy() for parts in answers])

    return run
