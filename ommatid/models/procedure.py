"""The contract of published procedures: a rule, a loss, a schedule or a layer on trial, with answers to be verified."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ommatid.models.model import Model


class Procedure(Model):
    """Base of what a paper computes that is no model to deploy: a ranking, a merge, a schedule, a step of training.

    It is registered like a model, so that `ommatid verify` holds it against its reference. The work itself lives in the
    library (`methods/`, `nn/`, `ops/`) as functions that users call; a procedure only names inputs and outputs as the
    cases do. What a deployed model promises (export, bfloat16, images that do not see each other) is not asked of it.
    """

    def forward(self, **inputs: Any) -> dict[str, Tensor]:
        """Tensors by the names of the cases' inputs -> tensors by the names of their outputs."""
        raise NotImplementedError
