"""What the tests of all families run on: every reference case of every registered family, as a model with inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.catalog import parity
from ommatid.models import create_model, families, load_reference
from ommatid.workflows.verify import case_names, systems_with_cases

CASES = Path(__file__).resolve().parent.parent / "parity" / "cases"
SYSTEMS = [id for id in systems_with_cases(CASES) if id in families()]
NAMES = [(id, name) for id in SYSTEMS for name in case_names(CASES / id)]


@dataclass
class Subject:
    """A tiny model with the reference's weights, and the inputs of its case."""

    id: str
    config: dict[str, Any]
    model: nn.Module
    inputs: dict[str, Tensor]

    def answer(self, model: nn.Module | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """The model's outputs by name; a single tensor is called "output"."""
        answer = (model or self.model)(**(inputs or self.inputs))
        return answer if isinstance(answer, dict) else {"output": answer}


def subject(id: str, name: str) -> Subject:
    case = parity.load_case(CASES / id, name)
    model = create_model(id, **case.config).eval()
    load_reference(model, case.state())
    inputs = {name: torch.from_numpy(value) for name, value in case.inputs().items()}
    return Subject(id, case.config, model, inputs)


def assert_close(mine: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    """Every output agrees within `tolerance` of its largest magnitude."""
    assert mine.keys() == theirs.keys()
    for name, expected in theirs.items():
        error = (mine[name].double() - expected.double()).abs().max() / expected.double().abs().max()
        assert error <= tolerance, f"{name}: relative error {error:.2e}"
