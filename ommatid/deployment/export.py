"""Files that run a model without this library, checked against the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ommatid.deployment.onnx import open_onnx, write_onnx
from ommatid.deployment.openvino import open_openvino, write_openvino
from ommatid.deployment.runtime import Run

TOLERANCE = 1e-3
"""Largest difference of outputs, as a fraction of their largest magnitude, that an exported float32 file may show."""


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
