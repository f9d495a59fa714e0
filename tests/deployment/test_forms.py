"""How far answers differ, and what a form is asked for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ommatid.deployment.export import exported_error
from ommatid.deployment.forms import largest_difference


def test_the_difference_is_a_fraction_of_each_tensors_largest_magnitude() -> None:
    expected = [torch.tensor([4.0, -2.0]), torch.tensor([100.0])]
    assert largest_difference({"a": torch.tensor([4.0, -1.0]), "b": torch.tensor([101.0])}, expected) == 0.25


def test_an_answer_that_is_no_number_is_never_close() -> None:
    fine, spoilt = torch.ones(2), torch.tensor([1.0, math.nan])
    assert math.isnan(largest_difference([fine, spoilt], [fine, fine]))
    answers = iter([fine, spoilt])
    with pytest.raises(ValueError, match="does not answer as the model does"):
        exported_error(nn.Identity(), lambda image: next(answers), [fine, fine])
