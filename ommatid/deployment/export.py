"""Files that run a model without this library, checked against the model itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

TOLERANCE = 1e-3
"""Largest difference of outputs, as a fraction of their largest magnitude, that an exported float32 file may show."""

Run = Callable[[Tensor], Any]
"""Images to the model's answer: a tensor, or a tuple of them where the answer has several parts."""


@dataclass(frozen=True)
class Format:
    """One kind of file: its suffix, how a captured program is written as one, and how one is opened to be run.

    A file is written with names for the parts of its answer, where its kind has such names.

    portable: whether it runs on other kinds of machines.
    """

    suffix: str
    write: Callable[[ExportedProgram, Path, Sequence[str]], None]
    open: Callable[[Path], Run]
    portable: bool = True


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
    )


def open_onnx(path: Path) -> Run:
    """Runs it by ONNX Runtime on the CPU. Raises ValueError where that is not installed."""
    runtime = imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda image: _answer(session.run(None, {name: image.contiguous().numpy()}))


def write_openvino(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    """OpenVINO's own format: `path` (.xml), and the weights beside it (.bin). Raises ValueError where it is absent."""
    openvino = imported("openvino")
    model = openvino.convert_model(program)
    model.inputs[0].get_tensor().set_names({"image"})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=False)


def open_openvino(path: Path) -> Run:
    """Runs it by OpenVINO on the CPU, in float32. Raises ValueError where it is not installed."""
    return compiled_openvino(path, "f32")


@cache
def openvino_core() -> Any:
    """OpenVINO with its CPU plugin, one for the life of the process. Raises ValueError where it is not installed.

    Each plugin lends the thread that loads it a stack for signal handlers. Two that are freed out of turn leave one
    that is gone, and the next signal with a handler, Ctrl-C or the end of a child, kills the process without a word.
    """
    core = imported("openvino").Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return core


def compiled_openvino(model: Any, precision: str) -> Run:
    """Runs a model, or the file of one, by OpenVINO on the CPU, computing in "f32" or "bf16"."""
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino_core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(image: Tensor) -> Any:
        return _answer([part.copy() for part in request.infer([image.contiguous().numpy()]).to_tuple()])

    return run


def _answer(parts: Sequence[np.ndarray]) -> Tensor | tuple[Tensor, ...]:
    tensors = tuple(map(torch.from_numpy, parts))
    return tensors if len(tensors) > 1 else tensors[0]


def write_program(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    torch.export.save(program, path)


def open_program(path: Path) -> Run:
    program = torch.export.load(path).module()
    return lambda image: program(image)


def write_inductor(program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
    """Machine code for this kind of processor, with the weights in it."""
    from torch._inductor import aoti_compile_and_package

    with torch.no_grad():
        aoti_compile_and_package(program, package_path=str(path), inductor_configs={"freezing": True})


def open_inductor(path: Path) -> Run:
    from torch._inductor import aoti_load_package

    package = aoti_load_package(str(path))
    return lambda image: package(image.contiguous())


FORMATS = {
    "onnx": Format(".onnx", write_onnx, open_onnx),
    "openvino": Format(".xml", write_openvino, open_openvino),
    "torch": Format(".pt2", write_program, open_program),
    "aotinductor": Format(".aoti.pt2", write_inductor, open_inductor, portable=False),
}
"""The formats of `ommatid export`, by name."""


@torch.inference_mode()
def exported_error(model: nn.Module, run: Run, images: list[Tensor], tolerance: float = TOLERANCE) -> float:
    """Largest difference of the file's answers from the model's, as a fraction of the largest magnitude of each part.

    Raises:
        ValueError: it passes the tolerance.
    """
    model = model.eval()
    errors = []
    for image in images:
        for expected, answer in zip(_parts(model(image)), _parts(run(image)), strict=True):
            errors.append(float((answer - expected).abs().max() / expected.abs().max()))
    worst = float(torch.tensor(errors).max())  # NaN where there is any, which Python's own max may pass over
    if not worst <= tolerance:
        raise ValueError(f"the exported file does not answer as the model does: the difference is {worst:.1e}")
    return worst


def _parts(answer: Any) -> Sequence[Tensor]:
    return [answer] if isinstance(answer, Tensor) else answer


def imported(package: str) -> Any:
    """Raises ValueError, with the way out, where the package is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f"this needs the package {package}: pip install 'ommatid[export]'") from None
