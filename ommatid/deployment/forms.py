"""The forms that a model can run in on this machine: memory format, precision, compiler, other runtimes."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.deployment.attention import OpenAttention
from ommatid.deployment.export import open_inductor, write_inductor
from ommatid.deployment.onnx import open_onnx, write_onnx
from ommatid.deployment.openvino import (
    compiled_openvino,
    converted_openvino,
    openvino_core,
    read_by_openvino,
    save_openvino,
)
from ommatid.deployment.runtime import Run
from ommatid.measuring.machine import instruction_sets
from ommatid.runs.files import replacing

Form = Callable[[], nn.Module]
"""Makes one form of a model: it takes the model's image, in float32, and gives its answer, in float32."""


def forms_of(model: nn.Module, example: Tensor) -> dict[str, Form]:
    """Every form of `model`, by name, that may be had on the device of `example`. What is made is independent of
    `model`, which stays as it is.

    Args:
        model: in evaluation mode, without gradients, on that device.
        example: (B, C, H, W), float32: the runtimes and machine code serve images of this shape alone.
    """
    device = example.device
    forms: dict[str, Form] = {
        "eager": partial(copy.deepcopy, model),
        "channels-last": partial(ChannelsLast, model),
        "compiled": partial(_compiled_form, copy.deepcopy, model),
    }
    for dtype in reduced_precisions(device):
        name = dtype_name(dtype)
        forms |= {
            name: partial(Autocast, model, dtype),
            f"{name} weights": partial(Cast, model, dtype),
            f"compiled {name}": partial(_compiled_form, Autocast, model, dtype),
            f"compiled {name} weights": partial(_compiled_form, Cast, model, dtype),
        }
    if device.type == "cpu":
        if find_spec("onnxruntime") and find_spec("onnxscript"):
            forms["ONNX Runtime"] = partial(_onnx_runtime_form, model, example)
        if find_spec("openvino"):
            forms |= _openvino_forms(lambda: read_by_openvino(torch.export.export(model, (example,))), model, example)
    return forms


def own_forms(model: nn.Module, example: Tensor, place: Path | None = None) -> dict[str, Form]:
    """Forms of our making, further ones and better ones of the same names. On CPU: attention as products, in the
    precisions in which the fused kernel is slow; OpenVINO with norms that it has a kernel for, and with a part of the
    batch on each thread, which spares threads the waiting for each other.

    place: what is converted for OpenVINO is kept in files beside it, unless it is there already: `stored_openvino`.
    """
    if example.device.type != "cpu":
        return {}
    forms: dict[str, Form] = {
        f"compiled {dtype_name(dtype)} weights, open attention": partial(_compiled_form, _open, model, dtype)
        for dtype in reduced_precisions(example.device)
    }
    if find_spec("openvino"):
        for streams in {1, _streams(len(example))}:
            stored = place and stored_openvino(place, streams)
            convert = partial(_converted, model, example[: len(example) // streams], stored)
            forms |= _openvino_forms(convert, model, example, streams)
    return forms


def stored_openvino(place: Path, streams: int) -> Path:
    """The file beside `place` that keeps a model converted for so many streams."""
    return place.with_name(f"{place.stem}-{streams}.xml")


def _streams(batch: int) -> int:
    """The largest number of equal parts of a batch for which there are threads."""
    return next(parts for parts in range(torch.get_num_threads(), 0, -1) if batch % parts == 0)


def _open(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    return OpenAttention(Cast(model, dtype))


def _compiled_form(make: Callable[..., nn.Module], model: nn.Module, *precision: torch.dtype) -> nn.Module:
    return compiled(make(model, *precision))


def _onnx_runtime_form(model: nn.Module, example: Tensor) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(torch.export.export(model, (example,)), path, ["answer"])
        return Elsewhere(open_onnx(path), model, example)


def _openvino_forms(convert: Callable[[], Any], model: nn.Module, example: Tensor, streams: int = 1) -> dict[str, Form]:
    """OpenVINO in each precision, of one conversion for all."""
    convert = cache(convert)
    told = f", {streams} streams" if streams > 1 else ""

    def make(precision: str) -> nn.Module:
        return Elsewhere(compiled_openvino(convert(), precision, streams), model, example)

    names = {"OpenVINO": "f32"} | {f"OpenVINO {dtype_name(t)}": "bf16" for t in reduced_precisions(example.device)}
    return {f"{name}{told}": partial(make, precision) for name, precision in names.items()}


def _converted(model: nn.Module, example: Tensor, stored: Path | None) -> Any:
    """The model for OpenVINO, from its file where there is one."""
    if stored and stored.is_file():
        return openvino_core().read_model(stored)
    converted = converted_openvino(torch.export.export(model, (example,)))
    if stored:
        _store(converted, stored)
    return converted


def _store(converted: Any, path: Path) -> None:
    """Weights first: what has its `path` is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        draft = Path(folder) / path.name
        save_openvino(converted, draft)
        for suffix in (".bin", ".xml"):
            draft.with_suffix(suffix).replace(path.with_suffix(suffix))


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def reduced_precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """Those below float32 that the device computes in, rather than imitates."""
    if device.type == "cpu":
        return (torch.bfloat16,) if "bf16" in instruction_sets() else ()
    return (torch.bfloat16, torch.float16)


class ChannelsLast(nn.Module):
    """A copy of `model` with its convolutions' weights, and the image, laid out channels last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last)

    def forward(self, image: Tensor) -> Any:
        return self.model(image.contiguous(memory_format=torch.channels_last))


class Autocast(nn.Module):
    """A copy of `model`, computing in `dtype` where that is safe."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.dtype = dtype

    def forward(self, image: Tensor) -> Any:
        # Entered in here, so that it is part of what is compiled.
        with torch.autocast(image.device.type, self.dtype):
            return as_float(self.model(image))


class Cast(nn.Module):
    """A copy of `model` that holds and computes all in `dtype`, from the image to the answer."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> Any:
        return as_float(self.model(image.to(self.dtype)))


class Elsewhere(nn.Module):
    """What another runtime makes of images of the example's shape; all others go to a copy of `model`."""

    def __init__(self, run: Run, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.run = run
        self.model = copy.deepcopy(model)
        self.shape = example.shape

    def forward(self, image: Tensor) -> Any:
        return self.run(image) if image.shape == self.shape else self.model(image)


def compiled(model: nn.Module) -> nn.Module:
    """`model`, compiled with its weights as constants of the program, laid out as its products want them."""

    def call(image: Tensor) -> Any:
        return model(image)

    # A code object of its own: PyTorch keeps what it compiled with the code, and for one code a few programs only.
    call.__code__ = call.__code__.replace()
    return Called(torch.compile(call, options={"freezing": True}))


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, image: Tensor) -> Any:
        return self.call(image)


def machine_code_forms(model: nn.Module, example: Tensor, path: Path) -> dict[str, Form]:
    """What AOTInductor makes of each compiled form, as a file beside `path`, unless that is there already."""
    subjects: dict[str, Form] = {"AOTInductor": lambda: model}
    for dtype in reduced_precisions(example.device):
        subjects[f"AOTInductor {dtype_name(dtype)}"] = partial(Autocast, model, dtype)
        subjects[f"AOTInductor {dtype_name(dtype)} weights"] = partial(Cast, model, dtype)
        subjects[f"AOTInductor {dtype_name(dtype)} weights, open attention"] = partial(_open, model, dtype)
    return {
        name: partial(_machine_code, make, example, path.with_stem("-".join([path.stem, *re.findall(r"\w+", name)])))
        for name, make in subjects.items()
    }


def _machine_code(make: Form, example: Tensor, path: Path) -> nn.Module:
    model = make()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft:
            write_inductor(torch.export.export(model, (example,)), draft, ["answer"])
    return Elsewhere(open_inductor(path), model, example)


def as_float(answer: Any) -> Any:
    """The answer with its tensors in float32."""
    if isinstance(answer, Tensor):
        return answer.float() if answer.is_floating_point() else answer
    if isinstance(answer, dict):
        return {name: as_float(part) for name, part in answer.items()}
    return type(answer)(as_float(part) for part in answer)


def tensors_of(answer: Any) -> list[Tensor]:
    """The tensors of an answer that is one, or a list of them, or a dictionary of them."""
    if isinstance(answer, Tensor):
        return [answer]
    return [tensor for part in (answer.values() if isinstance(answer, dict) else answer) for tensor in tensors_of(part)]


def largest_difference(answer: Any, expected: list[Tensor]) -> float:
    """Of tensors, as a fraction of each one's largest magnitude in `expected`; NaN where any answer has one."""
    pairs = zip(tensors_of(answer), expected, strict=True)
    return float(torch.stack([_relative(mine, value) for mine, value in pairs]).max())


def _relative(mine: Tensor, expected: Tensor) -> Tensor:
    return (mine.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-12)
