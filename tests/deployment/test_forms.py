"""How far answers differ, and what a form is asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ommatid.deployment.export import exported_error
from ommatid.deployment.forms import largest_difference, own_forms
from ommatid.deployment.openvino import converted_openvino
from ommatid.measuring.timing import thread_count


def test_the_difference_is_a_fraction_of_each_tensors_largest_magnitude() -> None:
    expected = [torch.tensor([4.0, -2.0]), torch.tensor([100.0])]
    assert largest_difference({"a": torch.tensor([4.0, -1.0]), "b": torch.tensor([101.0])}, expected) == 0.25


def test_an_answer_that_is_no_number_is_never_close() -> None:
    fine, spoilt = torch.ones(2), torch.tensor([1.0, math.nan])
    assert math.isnan(largest_difference([fine, spoilt], [fine, fine]))
    answers = iter([fine, spoilt])
    with pytest.raises(ValueError, match="does not answer as the model does"):
        exported_error(nn.Identity(), lambda image: next(answers), [fine, fine])


@pytest.mark.parametrize(("batch", "streams"), [(4, 2), (3, 1), (1, 1)])
def test_a_batch_is_parted_among_the_threads_where_it_can_be(batch: int, streams: int) -> None:
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval().requires_grad_(False)
    image = torch.rand(batch, 3, 8, 8)
    with thread_count(2):
        found = {name: make for name, make in own_forms(model, image).items() if name.startswith("OpenVINO, ")}
        assert list(found) == ([f"OpenVINO, {streams} streams"] if streams > 1 else [])
        for make in found.values():
            torch.testing.assert_close(make()(image), model(image), rtol=1e-4, atol=1e-5)


def test_transposes_that_undo_each_other_are_gone() -> None:
    openvino = pytest.importorskip("openvino", reason="the extra `export` is not installed")

    class Turning(nn.Module):
        """To channels last and back, with what lies between."""

        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

        def forward(self, image: Tensor) -> Tensor:
            for conv in self.convs:
                image = conv(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).relu() * 2
            return image

    image = torch.rand(1, 8, 8, 3)
    program = torch.export.export(Turning().eval(), (image,))

    def transposes(model: Any) -> int:
        return sum(op.get_type_name() == "Transpose" for op in model.get_ordered_ops())

    assert transposes(converted_openvino(program)) <= 2 < transposes(openvino.convert_model(program))
