"""Grouped linear layers: one grouped product gives what the groups give one by one."""

from __future__ import annotations

import pytest
import torch

from ommatid.ops.grouped import group_of_rows, grouped_linear, grouped_linear_reference

ENDS = [[3, 3, 20, 31], [31, 31, 31, 31], [0, 0, 0, 31], [8, 16, 24, 31]]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "outputs"), [(16, 24), (7, 5), (5, 7), (1, 1)])
def test_agrees_with_one_group_after_another(ends: list[int], bias: bool, width: int, outputs: int) -> None:
    torch.manual_seed(0)
    rows, weight = torch.randn(31, width, requires_grad=True), torch.randn(4, outputs, width, requires_grad=True)
    offset = torch.randn(4, outputs, requires_grad=True) if bias else None
    sources = [x for x in (rows, weight, offset) if x is not None]
    stops, probe = torch.tensor(ends, dtype=torch.int32), torch.randn(31, outputs)
    answers = [form(rows, weight, offset, stops) for form in (grouped_linear, grouped_linear_reference)]
    torch.testing.assert_close(*answers)
    mine, theirs = (torch.autograd.grad((answer * probe).sum(), sources) for answer in answers)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(grouped_linear(rows, weight, offset, stops), answers[1].detach())


def test_knows_the_group_of_every_row() -> None:
    assert group_of_rows(torch.tensor([2, 2, 3], dtype=torch.int32), 3).tolist() == [0, 0, 2]


def test_takes_no_rows_at_all() -> None:
    ends = torch.zeros(2, dtype=torch.int32)
    assert grouped_linear(torch.zeros(0, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3), ends).shape == (0, 3)


def test_takes_doubles() -> None:
    rows, weight = torch.randn(5, 4, dtype=torch.float64), torch.randn(2, 3, 4, dtype=torch.float64)
    assert grouped_linear(rows, weight, None, torch.tensor([2, 5], dtype=torch.int32)).dtype == torch.float64


def test_takes_the_gradient_of_a_sum() -> None:
    rows = torch.randn(5, 8, requires_grad=True)
    grouped_linear(rows, torch.ones(2, 4, 8), None, torch.tensor([2, 5], dtype=torch.int32)).sum().backward()
    assert (rows.grad == 4).all()
