"""Writes docs/exports.md: what of every family exports to torch.export and to ONNX, and why the rest does not.

Each family is built from its first reference case, tiny; the program is run by PyTorch and by ONNX Runtime, on other
numbers of images (and other sizes, where they are free), and compared with the model. Long: some 10 s a family.

python docs/export_table.py [FAMILY ...]      # only these; the rows of the others stay as they are
"""

from __future__ import annotations

import io
import logging
import math
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from textwrap import shorten
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ommatid.catalog import parity
from ommatid.deployment.capture import classifier_sides, free_axes
from ommatid.deployment.forms import largest_difference, tensors_of
from ommatid.deployment.onnx_operators import translations
from ommatid.models import create_model, families, load_reference
from ommatid.models.procedure import Procedure
from ommatid.models.restorer import Restorer, Sides
from ommatid.nn.deploy import deployed_copy
from ommatid.workflows.verify import case_names, systems_with_cases

ROOT = Path(__file__).resolve().parent
CASES = ROOT.parent / "tests" / "parity" / "cases"
PAGE = ROOT / "exports.md"
TOLERANCE = 1e-3
PATIENCE = 60
"""Seconds of computing in which a program with free sides must be there: their formulas can grow without end."""
HEAD = f"""# What exports

Of every registered family, built tiny from its first reference case: whether the deployed model becomes a
`torch.export` program and an ONNX file that answer as the model does, to 1e-3, in PyTorch and in ONNX Runtime.
`batch`: any number of images; `sides n`: also any height and width that are multiples of n, where torch.export finds
that out within {PATIENCE} s. Procedures (rules, losses, schedules) are no models to deploy and are left out. Written by
`python docs/export_table.py [FAMILY ...]`; a family without a row was not run yet.

| family | free | torch.export | ONNX |
|---|---|---|---|
"""

WORDS = {
    r"op='aten\.(\w+)'.*complex": "ONNX has no complex numbers, and {} gets some",
    r"No ONNX function found for .*?op='\w+\.(\w+)'": "ONNX has no form of {}",
    r"Could not find an implementation for (\w+)": "ONNX Runtime has no {}",
    r"data-dependent": "what is computed follows from what the input holds",
}
"""What errors say, as patterns, and what that means."""

Inputs = dict[str, Tensor]


def first_model(id: str) -> tuple[nn.Module, Inputs] | None:
    """The model of the first case that is no procedure, with its reference's weights, and that case's inputs."""
    for name in case_names(CASES / id):
        case = parity.load_case(CASES / id, name)
        family = families()[id]
        if issubclass(family.class_of(family.config.from_dict(case.config)), Procedure):
            continue
        model = create_model(id, **case.config).eval()
        load_reference(model, case.state())
        return model, {name: torch.from_numpy(value) for name, value in case.inputs().items()}
    return None


def row(id: str) -> str | None:
    """One line of the table; None where there is nothing to export."""
    found = first_model(id)
    if found is None:
        return None
    model, inputs = deployed_copy(found[0]), found[1]
    program, free, error, told = captured(model, inputs)
    if program is None:
        return f"| {id} | – | {told} | – |"
    return f"| {id} | {told} | {error:.0e} | {attempt(lambda: ran_by_onnx(model, program, free))} |"


def captured(model: nn.Module, inputs: Inputs) -> tuple[ExportedProgram | None, list[Inputs], float, str]:
    """The freest program, inputs that it takes, its worst error, what is free; or, in words, why there is none."""
    problem = ""
    for axes, shapes, told in freedoms(model, inputs):
        given, others = resized(inputs, shapes[0]), [resized(inputs, shape) for shape in shapes]
        try:
            with patience(PATIENCE if "sides" in told else 0):
                program = torch.export.export(model, (), given, dynamic_shapes=axes)
            # Sizes may be part of a program that was captured with free ones: only running it tells.
            error = ran_by_torch(model, program, others)
            if not error <= TOLERANCE:
                raise ValueError(f"answers otherwise: {error:.0e}")
            return program, others, error, told
        except Exception as refusal:  # torch.export's have no common type
            problem = reason(refusal)
    return None, [], math.nan, problem


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds of computing; 0 for none."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not there in {seconds:.0f} s")

    signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, min(seconds, 1))  # again: what is computed may catch the first
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def freedoms(model: nn.Module, inputs: Inputs) -> list[tuple[Any, list[dict[str, tuple[int, ...]]], str]]:
    """What to try, freest first: dynamic axes, shapes of inputs (the first is the example), and words."""
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    batches = {shape[0] for shape in shapes.values() if shape}
    ways: list[tuple[Any, list[dict[str, tuple[int, ...]]], str]] = []
    if len(batches) == 1 and all(shapes.values()):
        other = [{name: (count, *shape[1:]) for name, shape in shapes.items()} for count in (2, 3)]
        sides = free_sides(model, inputs)
        if sides is not None:
            (name, shape) = next(iter(shapes.items()))
            rows, columns = sides.multiple
            near = sides.nearest(*shape[2:])
            larger = sides.nearest(near[0] + rows, near[1] + 2 * columns)
            sized = [{name: (2, shape[1], *near)}, {name: (3, shape[1], *larger)}]
            ways.append(
                ({name: free_axes(sides)}, sized, f"batch, sides {rows if rows == columns else sides.multiple}")
            )
        ways.append(({name: {0: Dim("batch", min=1)} for name in inputs}, other, "batch"))
    ways.append((None, [shapes], "nothing"))
    return ways


def free_sides(model: nn.Module, inputs: Inputs) -> Sides | None:
    if set(inputs) != {"image"} or inputs["image"].dim() != 4:
        return None
    if isinstance(model, Restorer):
        return model.exported_sides()
    stride = getattr(model, "strides", (1,))[-1]
    return classifier_sides(model, 2 * stride)


def resized(inputs: Inputs, shapes: dict[str, tuple[int, ...]]) -> Inputs:
    """Inputs of these shapes: the case's own where they are the same, else parts and repetitions of them."""
    return {name: fitted(inputs[name], shape) for name, shape in shapes.items()}


def fitted(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    for axis, length in enumerate(shape):
        repeats = -(-length // value.shape[axis])
        value = torch.cat([value] * repeats, dim=axis).narrow(axis, 0, length)
    return value.contiguous()


def ran_by_torch(model: nn.Module, program: ExportedProgram, inputs: list[Inputs]) -> float:
    run = program.module()
    with torch.no_grad():
        return max(largest_difference(run(**given), tensors_of(model(**given))) for given in inputs)


def ran_by_onnx(model: nn.Module, program: ExportedProgram, inputs: list[Inputs]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            program,
            f=path,
            dynamo=True,
            external_data=False,
            verbose=False,
            custom_translation_table=translations(),
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    errors = []
    for given in inputs:
        answers = session.run(None, {name: given[name].numpy() for name in names})
        with torch.no_grad():
            errors.append(
                largest_difference([torch.from_numpy(value) for value in answers], tensors_of(model(**given)))
            )
    return max(errors)


def attempt(run: Any) -> str:
    try:
        error = run()
    except Exception as problem:  # exporters and runtimes have errors of their own
        return reason(problem)
    return f"{error:.0e}" if error <= TOLERANCE else f"answers otherwise: {error:.0e}"


def reason(problem: BaseException) -> str:
    """What is at the bottom of an error, in words where they are known, else its first line: for a table's cell."""
    while problem.__cause__ is not None:  # exporters wrap what went wrong into advice to their own developers
        problem = problem.__cause__
    told = re.sub(r"\x1b\[\d+m", "", str(problem)).strip() or type(problem).__name__
    for pattern, words in WORDS.items():
        if found := re.search(pattern, told, re.DOTALL):
            return words.format(*found.groups())
    return shorten(re.sub(r"[|`]", "", told.splitlines()[0]), 160, placeholder=" …")


def known_rows() -> dict[str, str]:
    if not PAGE.is_file():
        return {}
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    torch.set_num_threads(1)
    rows = known_rows()
    for id in sys.argv[1:] or [id for id in systems_with_cases(CASES) if id in families()]:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            line = row(id)
        if line is not None:
            rows[id] = line
            print(line, flush=True)
        # After every family: what is cut off is not lost.
        PAGE.write_text(HEAD + "".join(f"{rows[id]}\n" for id in sorted(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
