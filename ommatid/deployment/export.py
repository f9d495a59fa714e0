"""Files that run a model without this library: ONNX and torch.export programs, checked against the model itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from ommatid.models.restorer import Sides
from ommatid.nn.deploy import deployed_copy

TOLERANCE = 1e-3
"""Largest difference of outputs, as a fraction of their largest magnitude, that an exported float32 file may show."""

Run = Callable[[Tensor], Tensor]


def free_axes(sides: Sides | None) -> dict[int, Any]:
    """What torch.export is told about an image's axes: the batch is free, and so are these sides, where given."""
    free: dict[int, Any] = {0: Dim("batch", min=1)}
    if sides is not None:
        for axis, name in enumerate(("rows", "columns")):
            least, most = sides.counts(axis)
            free[2 + axis] = sides.multiple[axis] * Dim(name, min=least, max=most)
    return free


def write_onnx(model: nn.Module, example: Tensor, path: Path, sides: Sides | None) -> None:
    """Writes the deployed model: input `image` (B, C, H, W), output `answer`.

    Raises:
        ValueError: the packages of the extra `export` are missing.
    """
    for package in ("onnx", "onnxscript"):
        _imported(package)
    torch.onnx.export(
        deployed_copy(model),
        (example,),
        path,
        dynamo=True,
        dynamic_shapes=(free_axes(sides),),
        input_names=["image"],
        output_names=["answer"],
        external_data=False,
        verbose=False,
    )


def write_program(model: nn.Module, example: Tensor, path: Path, sides: Sides | None) -> None:
    """Writes the deployed model as a torch.export program (.pt2)."""
    program = torch.export.export(deployed_copy(model), (example,), dynamic_shapes=(free_axes(sides),))
    torch.export.save(program, path)


def open_onnx(path: Path) -> Run:
    """(B, C, H, W) -> the answer, by ONNX Runtime on the CPU. Raises ValueError where it is not installed."""
    runtime = _imported("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def open_program(path: Path) -> Run:
    program = torch.export.load(path).module()
    return lambda image: program(image)


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Tensor, Path, Sides | None], None], Callable[[Path], Run]]] = {
    "onnx": (".onnx", write_onnx, open_onnx),
    "torch": (".pt2", write_program, open_program),
}
"""Name -> the file's suffix, what writes it, and what runs it."""


@torch.no_grad()
def exported_error(model: nn.Module, run: Run, images: list[Tensor]) -> float:
    """Largest difference of the file's answers from the model's, as a fraction of the largest magnitude.

    Raises:
        ValueError: it passes TOLERANCE.
    """
    model = model.eval()
    errors = []
    for image in images:
        expected, answer = model(image), run(image)
        errors.append(float((answer - expected).abs().max() / expected.abs().max()))
    worst = max(errors)
    if not worst <= TOLERANCE:
        raise ValueError(f"the exported file does not answer as the model does: the difference is {worst:.1e}")
    return worst


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ValueError(f"this needs the package {package}: pip install 'ommatid[export]'") from None
