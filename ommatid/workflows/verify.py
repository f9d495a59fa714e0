"""verify: does each architecture answer as its reference implementation did?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ommatid.catalog import parity
from ommatid.models import Backbone, Family, create_model, families, load_reference
from ommatid.models.config import suggest
from ommatid.models.procedure import Procedure
from ommatid.nn.shapes import LayersWithoutValues
from ommatid.runs.files import check_writable, write_json


@dataclass
class CaseResult:
    """What became of one reference case: the worst error of each output, relative to its largest magnitude."""

    system: str
    case: str
    rtol: float
    errors: dict[str, float] = field(default_factory=dict)
    problem: str | None = None

    @property
    def worst(self) -> float:
        return max(self.errors.values(), default=float("inf"))

    @property
    def ok(self) -> bool:
        return self.problem is None and self.worst <= self.rtol


@dataclass
class CountResult:
    """The parameter count of one published variant against the measured one."""

    system: str
    variant: str
    expected: int
    found: int | None
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.found == self.expected


def verify(
    ids: Iterable[str] = (), *, cases: str | Path, json_path: str | Path | None = None
) -> list[CaseResult | CountResult]:
    """Runs every reference case and counts every published variant's parameters.

    Args:
        ids: systems to verify; all registered ones that have cases where empty.
        cases: a folder with one folder `ID/cases.json` + `*.npz` for each system.
        json_path: where to write the results as JSON.

    Raises:
        ValueError: the folder has no cases, or an id is unknown or has none.
    """
    if json_path is not None:
        check_writable(Path(json_path))
    results: list[CaseResult | CountResult] = []
    for id in chosen_systems(list(ids), Path(cases)):
        results += [check_case(id, Path(cases) / id, name) for name in case_names(Path(cases) / id)]
        results += check_published(families()[id], Path(cases) / id)
    if json_path is not None:
        rows = [asdict(result) | {"ok": result.ok} for result in results]
        write_json(Path(json_path), rows)
    return results


def chosen_systems(ids: list[str], cases: Path) -> list[str]:
    available = systems_with_cases(cases)
    for id in ids:
        if id not in families():
            raise ValueError(f"no system {id!r} is implemented here{suggest(id, families())}")
        if id not in available:
            raise ValueError(f"{cases} holds no cases of {id!r}{suggest(id, available)}")
    return ids or [id for id in available if id in families()]


def systems_with_cases(cases: Path) -> list[str]:
    """Raises ValueError where the folder holds no cases at all."""
    if not cases.is_dir():
        raise ValueError(f"no folder {cases}: --cases takes a folder with one folder ID/cases.json for each system")
    found = sorted(path.parent.name for path in cases.glob("*/cases.json"))
    if not found:
        raise ValueError(f"{cases} holds no cases: expected one folder ID/cases.json for each system")
    return found


def case_names(folder: Path) -> list[str]:
    return [row["name"] for row in parity.load_header(folder)["cases"]]


def check_case(id: str, folder: Path, name: str) -> CaseResult:
    """Builds the case's model with the reference's weights and compares every output and gradient."""
    result = CaseResult(id, name, rtol=float("nan"))
    try:
        case = parity.load_case(folder, name)
        result.rtol = case.rtol
        model = create_model(id, **case.config).eval()
        report = load_reference(model, case.state())
        if not report.complete:
            result.problem = str(report)
            return result
        result.errors = case.compare(answers(families()[id], model, case))
    except Exception as error:  # a broken case must not hide the results of the others
        result.problem = f"{type(error).__name__}: {error}"
    return result


def answers(family: Family, model: Any, case: parity.Case) -> dict[str, Any]:
    """Our value for every output of the case, and for its gradients as "grad/INPUT"."""
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs().items()}
    for name in case.grads:
        inputs[name].requires_grad_()
    outputs = named_outputs(family, model, inputs, list(case.outputs))
    missing = [name for name in case.outputs if name not in outputs]
    if missing:
        raise ValueError(f"{family.id} does not give the outputs {missing}: name them in its reference_outputs()")
    mine = {name: outputs[name].detach().numpy() for name in case.outputs}
    if case.grads:
        target = outputs[case.grad_of]
        probe = torch.from_numpy(parity.probe(case.grad_of, tuple(target.shape)))
        grads = torch.autograd.grad((target * probe).sum(), [inputs[name] for name in case.grads])
        mine |= {f"grad/{name}": grad.numpy() for name, grad in zip(case.grads, grads, strict=True)}
    return mine


def named_outputs(family: Family, model: Any, inputs: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    """What the contract calls `logits`, `stageI` and `tokens`, and whatever else the family names itself."""
    if isinstance(model, Procedure):
        return model(**inputs)
    outputs: dict[str, Tensor] = {}
    if hasattr(family.module, "reference_outputs"):
        outputs |= family.module.reference_outputs(model, **inputs)
    if any(name.startswith("stage") and name not in outputs for name in wanted):
        outputs |= {f"stage{index}": stage for index, stage in enumerate(model.features(**inputs))} | outputs
    if "tokens" in wanted and "tokens" not in outputs:
        outputs["tokens"] = model.tokens(**inputs)
    if all(name in outputs for name in wanted):
        return outputs
    answer = model(**inputs)
    if isinstance(answer, dict):
        return answer | outputs
    name = "logits" if isinstance(model, Backbone) else next(name for name in wanted if name not in outputs)
    return {name: answer} | outputs


def published(folder: Path) -> list[dict[str, Any]]:
    """The published variants that are described by a config; others are only quoted, with a rounded count."""
    return [row for row in parity.load_header(folder).get("published", []) if row["config"] is not None]


def counted_config(row: dict[str, Any]) -> dict[str, Any]:
    """The config whose parameters a published row counts: with 1000 classes where it counts its own classes apart."""
    counts_own_classes = any(key.startswith("parameters_") and key.endswith("_classes") for key in row)
    return row["config"] | ({"num_classes": 1000} if counts_own_classes else {})


def check_published(family: Family, folder: Path) -> list[CountResult]:
    """Counts the parameters of every published variant, built without the memory that its weights would take."""
    results = []
    for row in (row for row in published(folder) if row.get("parameters")):
        result = CountResult(family.id, row["name"], row["parameters"], None)
        try:
            with LayersWithoutValues():
                model = create_model(family.id, **counted_config(row))
            result.found = sum(parameter.numel() for parameter in model.parameters())
        except ValueError as error:
            result.problem = str(error)
        results.append(result)
    return results
